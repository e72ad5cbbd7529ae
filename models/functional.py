"""The model as pure functions of a dict of parameters: what a train step sees.

The module is split into graph and parameters once per config. What then travels through
`jax.jit` is a dict of arrays, which costs no Python time per step.

Shapes: B batch, T tokens, D width, V vocabulary.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from models.config import TransformerConfig
from models.sharding import automatic, gather
from models.transformer import Transformer

Params = dict[str, Any]


def init(config: TransformerConfig, key: jax.Array) -> Params:
    """Draws the initial parameters.

    Works under `jax.eval_shape` and under `jax.jit` with `out_shardings`.

    Args:
        config: The model.
        key: A key of `jax.random.key`.

    Returns:
        A nested dict of float32 arrays; the parameters of all layers are stacked along a leading
        dimension.

    Examples:
        >>> from models import PRESETS
        >>> params = jax.eval_shape(lambda: init(PRESETS["nano"], jax.random.key(0)))
        >>> sorted(params)
        ['embed', 'final_norm', 'head', 'layers']
        >>> params["layers"]["mlp"]["down"]["kernel"].shape
        (2, 176, 64)
    """
    return nnx.to_pure_dict(nnx.state(Transformer(config, rngs=nnx.Rngs(params=key)), nnx.Param))


def apply(
    config: TransformerConfig,
    params: Params,
    tokens_BT: jax.Array,
    segment_ids_BT: jax.Array | None = None,
) -> jax.Array:
    """Predicts every next token.

    Args:
        config: The model.
        params: What `init` returned, or a tree shaped like it.
        tokens_BT: Integer token ids, T at most config.context. An id of V or more makes its
            document NaN from there on.
        segment_ids_BT: Integer document ids of a packed sequence; the tokens of a document are
            neighbours. Attention stays inside a document and positions restart with it. None
            means one document per row.

    Returns:
        Float32 logits [B, T, V].

    Raises:
        ValueError: If the tokens are not a matrix of integers, are longer than the context, or do
            not match the segment ids; or if the parameters belong to another config.

    Examples:
        >>> from models import PRESETS
        >>> config, tokens = PRESETS["nano"], jnp.zeros((2, 16), jnp.int32)
        >>> params = init(config, jax.random.key(0))
        >>> logits = jax.jit(apply, static_argnums=0)(config, params, tokens)
        >>> logits.shape, logits.dtype.name
        ((2, 16, 256), 'float32')
    """
    return unembed(config, params, features(config, params, tokens_BT, segment_ids_BT))


def features(
    config: TransformerConfig,
    params: Params,
    tokens_BT: jax.Array,
    segment_ids_BT: jax.Array | None = None,
) -> jax.Array:
    """`apply` without the head, for losses that never hold all logits at once.

    Args and Raises: As for `apply`.

    Returns:
        The normalized residual stream [B, T, D] in config.dtype.
    """
    _check_inputs(config, tokens_BT, segment_ids_BT)

    def forward(params: Params, tokens: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
        return _model(config, params).features(tokens, segment_ids)

    batch = jax.typeof(tokens_BT).sharding.spec[0]
    return automatic(forward, PartitionSpec(batch))(params, tokens_BT, segment_ids_BT)


def unembed(config: TransformerConfig, params: Params, x_BTD: jax.Array) -> jax.Array:
    """The head of the model: ``apply(...) == unembed(features(...))``, for any part of T.

    Args:
        config: The model.
        params: As for `apply`, or what `head_params` returned: nothing else is read.
        x_BTD: Features, or a slice of them along B or T.

    Returns:
        Float32 logits [B, T, V].
    """

    def forward(params: Params, x_BTD: jax.Array) -> jax.Array:
        unread = nnx.to_pure_dict(_structure(config).parameters)
        return _model(config, {**unread, **params}).unembed(x_BTD)

    if config.tied_head:
        vocab = jax.typeof(params["embed"]["embedding"]).sharding.spec[0]
    else:
        vocab = jax.typeof(params["head"]["kernel"]).sharding.spec[1]
    batch = jax.typeof(x_BTD).sharding.spec[0]
    return automatic(forward, PartitionSpec(batch, None, vocab))(params, x_BTD)


def head_params(config: TransformerConfig, params: Params) -> Params:
    """The parameters that `unembed` reads, whose gradient is then taken without all others.

    On a mesh they are gathered along the width here, once, and not in every call of `unembed`.

    Args:
        config: The model.
        params: As for `apply`.

    Returns:
        The head, or the embedding of a tied head: a part of the tree.

    Examples:
        >>> from models import PRESETS
        >>> params = init(PRESETS["nano"], jax.random.key(0))
        >>> list(head_params(PRESETS["nano"], params))
        ['head']
    """
    name = "embed" if config.tied_head else "head"
    gathered = ("vocab", None) if config.tied_head else (None, "vocab")
    return {name: jax.tree.map(lambda kernel: gather(kernel, gathered), params[name])}


def logical_axes(config: TransformerConfig) -> Params:
    """Names the dimensions of every parameter, to be mapped to mesh axes by sharding rules.

    Returns:
        A tree like the parameters with a tuple of names in place of each array: 'layers', 'vocab',
        'embed', 'heads', 'kv_heads', 'head_dim', 'mlp', or None for a dimension never sharded.

    Examples:
        >>> from models import PRESETS
        >>> logical_axes(PRESETS["nano"])["layers"]["attention"]["query"]["kernel"]
        ('layers', 'embed', 'heads', 'head_dim')
    """
    return nnx.to_pure_dict(
        _structure(config).parameters, lambda variable: variable.get_metadata("out_sharding")
    )


class _Structure(NamedTuple):
    """All that there is to a model besides the values of its parameters."""

    graph: nnx.GraphDef
    parameters: nnx.State
    shapes: dict[str, tuple[int, ...]]


@functools.lru_cache(maxsize=64)
def _structure(config: TransformerConfig) -> _Structure:
    # Not nnx.eval_shape, which on a mesh would look for mesh axes with the logical names.
    graph, parameters = jax.eval_shape(
        lambda: nnx.split(Transformer(config, rngs=nnx.Rngs(params=0)), nnx.Param)
    )
    return _Structure(graph, parameters, _shapes(nnx.to_pure_dict(parameters)))


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree.leaves_with_path(params)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): jnp.shape(x) for p, x in leaves}


def _model(config: TransformerConfig, params: Params) -> Transformer:
    structure, given = _structure(config), _shapes(params)
    for name in sorted(structure.shapes.keys() | given.keys()):
        asked, has = structure.shapes.get(name, "none"), given.get(name, "none")
        if asked != has:
            raise ValueError(
                f"the parameters belong to another config: for {name} this one asks for shape "
                f"{asked}, but the tree has {has}."
            )
    return nnx.merge(structure.graph, params)


def _check_inputs(
    config: TransformerConfig, tokens_BT: jax.Array, segment_ids_BT: jax.Array | None
) -> None:
    shape = jnp.shape(tokens_BT)
    if len(shape) != 2:
        raise ValueError(f"tokens have shape {shape}, but must be [batch, tokens].")
    if shape[1] > config.context:
        raise ValueError(
            f"tokens are {shape[1]} long, but the model's context is {config.context}; "
            "shorten the sequences or raise TransformerConfig.context."
        )
    if segment_ids_BT is not None and jnp.shape(segment_ids_BT) != shape:
        raise ValueError(
            f"segment ids have shape {jnp.shape(segment_ids_BT)}, "
            f"but must have the tokens' shape {shape}."
        )
    for name, ids in (("tokens", tokens_BT), ("segment ids", segment_ids_BT)):
        if ids is not None and not jnp.issubdtype(ids.dtype, jnp.integer):
            raise ValueError(f"{name} have dtype {ids.dtype}, but must be integers.")
