"""The model as pure functions of a dict of parameters: what a train step sees.

The module is split into graph and parameters once per config; inside `jax.jit` only dicts of
arrays travel, which costs no Python time per step.

Shapes: B batch, T tokens, D width, V vocabulary.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from models.config import TransformerConfig
from models.sharding import automatic
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
        tokens_BT: Integer token ids, T at most config.context.
        segment_ids_BT: Integer document ids of a packed sequence, the tokens of a document being
            neighbours. Attention stays inside a document and positions restart with it. None
            means one document per row.

    Returns:
        Float32 logits [B, T, V].

    Raises:
        ValueError: If the tokens are not a matrix of integers, are longer than the context, or
            differ in shape from the segment ids.

    Examples:
        >>> from models import PRESETS
        >>> params = init(PRESETS["nano"], jax.random.key(0))
        >>> logits = apply(PRESETS["nano"], params, jnp.zeros((2, 16), jnp.int32))
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

    def forward(
        params: Params, tokens_BT: jax.Array, segment_ids_BT: jax.Array | None
    ) -> jax.Array:
        return nnx.merge(_graph(config)[0], params).features(tokens_BT, segment_ids_BT)

    batch = jax.typeof(tokens_BT).sharding.spec[0]
    return automatic(forward, PartitionSpec(batch))(params, tokens_BT, segment_ids_BT)


def unembed(config: TransformerConfig, params: Params, x_BTD: jax.Array) -> jax.Array:
    """The head of the model: ``apply(...) = unembed(features(...))``, for any part of T.

    Returns:
        Float32 logits [B, T, V].
    """

    def forward(params: Params, x_BTD: jax.Array) -> jax.Array:
        return nnx.merge(_graph(config)[0], params).unembed(x_BTD)

    batch = jax.typeof(x_BTD).sharding.spec[0]
    if config.tied_head:
        vocab = jax.typeof(params["embed"]["embedding"]).sharding.spec[0]
    else:
        vocab = jax.typeof(params["head"]["kernel"]).sharding.spec[1]
    return automatic(forward, PartitionSpec(batch, None, vocab))(params, x_BTD)


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
    return _graph(config)[1]


@functools.lru_cache(maxsize=64)
def _graph(config: TransformerConfig) -> tuple[nnx.GraphDef, Params]:
    model = nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(params=0)))
    graph, state = nnx.split(model, nnx.Param)
    axes = nnx.to_pure_dict(state, lambda variable: variable.get_metadata("out_sharding"))
    return graph, axes


def _check_inputs(
    config: TransformerConfig, tokens_BT: jax.Array, segment_ids_BT: jax.Array | None
) -> None:
    if jnp.ndim(tokens_BT) != 2:
        raise ValueError(f"tokens have shape {jnp.shape(tokens_BT)}, but must be [batch, tokens].")
    if not jnp.issubdtype(tokens_BT.dtype, jnp.integer):
        raise ValueError(f"tokens have dtype {tokens_BT.dtype}, but must be integers.")
    if tokens_BT.shape[1] > config.context:
        raise ValueError(
            f"tokens are {tokens_BT.shape[1]} long, but the model's context is {config.context}; "
            "shorten the sequences or raise TransformerConfig.context."
        )
    if segment_ids_BT is not None and jnp.shape(segment_ids_BT) != tokens_BT.shape:
        raise ValueError(
            f"segment ids have shape {jnp.shape(segment_ids_BT)}, "
            f"but must have the tokens' shape {tokens_BT.shape}."
        )
