"""Which parameters decay: matrices only, unless a mask says otherwise.

"Separate parameter groups for weight decay" (StratOpt, 3.2).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import optax

from optax_strat import _checks, _layer_types, _layout, _paths
from optax_strat._layer_types import LayerType
from optax_strat._layers import Layers, LayersLike, as_layers


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


Mask: TypeAlias = (
    Callable[[optax.Params], optax.Params]
    | Mapping[Any, Any]
    | Sequence[Any]
    | _Dataclass
    | bool
    | None
)
"""A tree of Booleans in the structure of the parameters, or a function that makes one."""


def decays(params: optax.Params, layers: LayersLike = Layers()) -> optax.Params:
    """A tree of Booleans, true for the parameters that weight decay applies to by default.

    These are matrices: at least two dimensions besides that of stacked layers (a stacked ``[L, D]``
    norm is no matrix, an ``[L, D, N, H]`` kernel is one), and neither norm nor bias (the biases of
    Flax's attention have two dimensions).

    Args:
      params: a tree of parameters, gradients or shapes.
      layers: how layers and their types are found; see :class:`Layers`. Of the types only ``norm``
        and ``bias`` count. What the default rules call so is so, whatever type it has in yours.

    Returns:
      A tree of the same structure. As a function it is a mask: ``optax.adamw(..., mask=decays)``.

    Raises:
      ValueError: it is not clear which layers are stacked.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_strat import decays
      >>> decays({'layers': {'norm': jnp.ones((2, 4)), 'mlp': jnp.ones((2, 8, 4))}})
      {'layers': {'mlp': True, 'norm': False}}
    """
    layers = as_layers(layers)
    labels = jax.tree.leaves(layers.labels(params, unmatched="other"))
    answers = []
    for (names, x), leaf, label in zip(
        _paths.named_leaves(params), layers.layout(params), labels, strict=True
    ):
        dims = len(_layout.shape_of(x)) - (leaf.axis is not None)
        by_name = _layer_types.match(names)
        kinds = {label} if by_name is None else {label, by_name.type}
        answers.append(dims >= 2 and not kinds & {LayerType.norm, LayerType.bias})
    return jax.tree.unflatten(jax.tree.structure(params), answers)


def add_decay(
    weight_decay: optax.ScalarOrSchedule, mask: Mask, layers: Layers, cautious: bool = False
) -> optax.GradientTransformationExtraArgs:
    """``optax.add_decayed_weights`` on matrices only, or on what ``mask`` says.

    A plain zero needs no parameters in ``update``; its state looks the same as any other number's.
    """
    if not callable(weight_decay):
        _checks.check_not_negative("weight_decay", weight_decay)
    if mask is None:
        mask = functools.partial(decays, layers=layers)
    decay = optax.add_decayed_weights(weight_decay)
    decay = optax.masked(_cautious(decay) if cautious else decay, mask)
    if _checks.is_number(weight_decay) and weight_decay == 0:
        return optax.GradientTransformationExtraArgs(
            decay.init, lambda u, state, *_, **__: (u, state)
        )
    return decay


def mask_leaves(tree: optax.Params, mask: Mask, layers: Layers) -> optax.Params:
    """A mask, or the default one, in the structure of a tree: a Boolean for every leaf."""
    if mask is None:
        return decays(tree, layers)
    given = mask(tree) if callable(mask) else mask
    return jax.tree.map(lambda m, part: jax.tree.map(lambda _: m, part), given, tree)


def _cautious(decay: optax.GradientTransformation) -> optax.GradientTransformation:
    """Decays only entries whose update moves them towards zero as well.

    Chen et al., Cautious Weight Decay, 2025 (arXiv:2510.12402): with the direction u and
    θ ← θ - η (u + λ θ), those where u θ ≥ 0.
    """

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        decayed, state = decay.update(updates, state, params)

        def select(u: jax.Array, with_decay: jax.Array, p: jax.Array) -> jax.Array:
            # Of the signs, because the product of small numbers may be zero.
            agree = (jnp.sign(u) * jnp.conj(jnp.sign(p))).real >= 0
            return jnp.where(agree, with_decay, u)

        return jax.tree.map(select, updates, decayed, params), state

    return optax.GradientTransformation(decay.init, update)
