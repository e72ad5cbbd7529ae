"""Different updates for different layer types."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_strat import _checks, _layout, _unused
from optax_strat._layers import Layers, LayersLike, as_layers

Scales: TypeAlias = Mapping[str, ArrayLike | optax.GradientTransformation]

OTHERS = "*"
"""What stands for all types that have no scale of their own."""


class ScaleByLayerTypeState(NamedTuple):
    """State of :func:`scale_by_layer_type`."""

    multipliers: dict[str, jax.Array]
    """What each type in ``scales`` is multiplied by, and ``'*'`` for all others, float32 of shape
    (); 1 where a type has no number or no parameters. As found at ``init``; only
    :func:`record_statistics` renews it."""
    inner_state: Any


def scale_by_layer_type(
    scales: Scales, layers: LayersLike = Layers(), *, normalize: bool = False
) -> optax.GradientTransformationExtraArgs:
    r"""Multiplies the updates of each layer type by a number of its own.

    "The effective learning rate for parameter θ_i in layer l becomes η_i = α_l · η_base" (Aardvark,
    4.1, eq. 2). Through ``optax.partition`` over stateless scales: the moments of the optimizer in
    front stay one set with one step count, and the multipliers, being Python floats, are folded
    into the pass that writes the updates.

    Args:
      scales: a number, or any transformation, for each layer type; types left out are not changed.
      layers: how layer types are found; see :class:`Layers`. Types of your own are as good as ours.
      normalize: divide the numbers by their mean over all parameters, so that the mean learning
        rate is that of the optimizer without them.

    Returns:
      The transformation; its state is a :class:`ScaleByLayerTypeState`.

    Raises:
      ValueError: a layer type is unknown, a number is negative or not finite, or ``normalize``
        meets something that is not a number; at ``init``, a parameter has no layer type, or is no
        floating-point array.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_strat import scale_by_layer_type
      >>> tx = scale_by_layer_type({'attention': 1.5, 'head': 1.8})
      >>> updates = {'attn': jnp.ones(1), 'mlp': jnp.ones(1), 'lm_head': jnp.ones(1)}
      >>> scaled, _ = tx.update(updates, tx.init(updates))
      >>> {name: round(x.item(), 4) for name, x in scaled.items()}
      {'attn': 1.5, 'lm_head': 1.8, 'mlp': 1.0}
    """
    layers = as_layers(layers)
    layers.check_types("scale_by_layer_type", scales)
    scales = {str(layer_type): scale for layer_type, scale in scales.items()}
    for layer_type, scale in scales.items():
        if not isinstance(scale, optax.GradientTransformation):
            _checks.check_not_negative(f"The scale of {layer_type!r}", scale)
        if normalize and not _checks.is_number(scale):
            raise ValueError(f"normalize=True needs numbers, but {layer_type!r} has {scale!r}.")

    def label(tree: Any) -> Any:
        return jax.tree.map(lambda kind: kind if kind in scales else OTHERS, layers.labels(tree))

    def partition(numbers: Scales) -> optax.GradientTransformationExtraArgs:
        transforms = {
            kind: scale if isinstance(scale, optax.GradientTransformation) else scale_by(scale)
            for kind, scale in numbers.items()
        }
        return optax.partition(transforms, label)

    def numbers_for(tree: Any) -> Scales:
        numbers = {OTHERS: 1.0} | scales
        return _normalized(numbers, tree, label(tree)) if normalize else numbers

    def init(params: Any) -> ScaleByLayerTypeState:
        _checks.check_parameters(params)
        _unused.warn_of_unused("scale_by_layer_type", scales, params, layers)
        numbers = numbers_for(params)
        return ScaleByLayerTypeState(
            _multipliers(numbers, label(params)), partition(numbers).init(params)
        )

    def update(
        updates: Any,
        state: ScaleByLayerTypeState,
        params: Any = None,
        *,
        record: bool = False,
        **extra_args: Any,
    ) -> tuple[Any, ScaleByLayerTypeState]:
        numbers = numbers_for(updates)
        scaled, inner_state = partition(numbers).update(
            updates, state.inner_state, params, **extra_args
        )
        # Constants that a program returns cost a copy at every step, so only if somebody records.
        multipliers = _multipliers(numbers, label(updates)) if record else state.multipliers
        return scaled, ScaleByLayerTypeState(multipliers, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _normalized(numbers: Scales, tree: Any, labels: Any) -> Scales:
    """The numbers, divided by their mean over the parameters of a tree."""
    sizes = [math.prod(_layout.shape_of(leaf)) for leaf in jax.tree.leaves(tree)]
    kinds = jax.tree.leaves(labels)
    weighted = sum(numbers[kind] * size for kind, size in zip(kinds, sizes, strict=True))
    mean = weighted / sum(sizes) if weighted else 1.0
    return {kind: number / mean for kind, number in numbers.items()}


def _multipliers(numbers: Scales, labels: Any) -> dict[str, jax.Array]:
    """The number of each type; 1 for those that have none, or nothing to multiply."""
    present = set(jax.tree.leaves(labels))
    return {
        kind: jnp.asarray(
            number
            if kind in present and not isinstance(number, optax.GradientTransformation)
            else 1.0,
            jnp.float32,
        )
        for kind, number in numbers.items()
    }


def scale_by(number: ArrayLike) -> optax.GradientTransformation:
    """``optax.scale``, but numbers of NumPy and JAX do not change the dtype of the updates."""
    if _checks.is_number(number) and number == 1:
        return optax.identity()
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u: times(number, u), updates))


def scale_leaves(
    factors: Callable[[optax.Params], Sequence[ArrayLike]],
) -> optax.GradientTransformationExtraArgs:
    """Multiplies each leaf by a factor of its own, found in the tree, which ``init`` checks too."""

    def init(params: optax.Params) -> optax.EmptyState:
        factors(params)
        return optax.EmptyState()

    def update(
        updates: optax.Updates,
        state: optax.EmptyState,
        params: optax.Params | None = None,
        **extra_args: object,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params, extra_args
        leaves, treedef = jax.tree.flatten(updates)
        scaled = [times(factor, u) for factor, u in zip(factors(updates), leaves, strict=True)]
        return jax.tree.unflatten(treedef, scaled), state

    return optax.GradientTransformationExtraArgs(init, update)


def times(number: ArrayLike, u: jax.Array) -> jax.Array:
    """An update times a number, in the dtype of the update; the number 1 changes nothing."""
    if _checks.is_number(number) and number == 1:
        return u
    return jnp.asarray(number, jnp.result_type(u)) * u
