"""Different updates for different layer types."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_strat import _checks, _layer_types, _layout


class ScaleByLayerTypeState(NamedTuple):
    """State of :func:`scale_by_layer_type`."""

    multipliers: jax.Array
    """What each :class:`LayerType` is multiplied by, float32 of shape (6,); 1 where it has no
    number or no parameters. As found at ``init``; only :func:`record_statistics` renews it."""
    inner_state: Any


def scale_by_layer_type(
    scales: Mapping[str, float | optax.GradientTransformation],
    layer_types: _layer_types.LayerTypes = None,
    unmatched: _layer_types.Unmatched = "error",
    *,
    normalize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Multiplies the updates of each layer type by a number of its own.

    "The effective learning rate for parameter θ_i in layer l becomes η_i = α_l · η_base" (Aardvark,
    4.1, eq. 2). Through ``optax.partition`` over stateless scales: the moments of the optimizer in
    front stay one set with one step count, and the multipliers, being Python floats, are folded
    into the pass that writes the updates.

    Args:
      scales: a number, or any transformation, for each layer type; types left out are not changed.
      layer_types: rules, or a function from a tree to labels; None means the default rules.
      unmatched: ``'error'`` or ``'other'``; see :func:`layer_types`.
      normalize: divide the numbers by their mean over all parameters, so that the mean learning
        rate is that of the optimizer without them.

    Returns:
      The transformation; its state is a :class:`ScaleByLayerTypeState`.

    Raises:
      ValueError: a layer type is unknown, a number is negative or not finite, or ``normalize``
        meets something that is not a number; at ``init``, a parameter has no layer type.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_strat import scale_by_layer_type
      >>> tx = scale_by_layer_type({'attention': 1.5, 'head': 1.8})
      >>> updates = {'attn': jnp.ones(1), 'mlp': jnp.ones(1), 'lm_head': jnp.ones(1)}
      >>> scaled, _ = tx.update(updates, tx.init(updates))
      >>> {name: round(x.item(), 4) for name, x in scaled.items()}
      {'attn': 1.5, 'lm_head': 1.8, 'mlp': 1.0}
    """
    _layer_types.check_layer_types("scale_by_layer_type", scales)
    for layer_type, scale in scales.items():
        if not isinstance(scale, optax.GradientTransformation):
            _checks.check_not_negative(f"The scale of {layer_type!r}", scale)
    label = _layer_types.labeler(layer_types, unmatched)
    for layer_type, scale in scales.items():
        if normalize and not _checks.is_number(scale):
            raise ValueError(f"normalize=True needs numbers, but {layer_type!r} has {scale!r}.")

    def numbers_for(tree: Any, labels: Any) -> Mapping[str, Any]:
        return normalized_scales(scales, tree, labels) if normalize else scales

    def init(params: Any) -> ScaleByLayerTypeState:
        labels = label(params)
        numbers = numbers_for(params, labels)
        inner_state = _partition(numbers, label).init(params)
        return ScaleByLayerTypeState(_multipliers(numbers, labels), inner_state)

    def update(
        updates: Any,
        state: ScaleByLayerTypeState,
        params: Any = None,
        *,
        record: bool = False,
        **extra_args: Any,
    ) -> tuple[Any, ScaleByLayerTypeState]:
        labels = label(updates)
        numbers = numbers_for(updates, labels)
        scaled, inner_state = _partition(numbers, label).update(
            updates, state.inner_state, params, **extra_args
        )
        # Constants that a program returns cost a copy at every step, so only if somebody records.
        multipliers = _multipliers(numbers, labels) if record else state.multipliers
        return scaled, ScaleByLayerTypeState(multipliers, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def normalized_scales(scales: Mapping[str, float], tree: Any, labels: Any) -> dict[str, float]:
    """All types' multipliers, divided by their mean over the parameters of a tree."""
    every = {layer_type: float(scales.get(layer_type, 1.0)) for layer_type in _all_types()}
    sizes = [math.prod(_layout.shape_of(leaf)) for leaf in jax.tree.leaves(tree)]
    weighted = sum(
        every[kind] * size for kind, size in zip(jax.tree.leaves(labels), sizes, strict=True)
    )
    mean = weighted / sum(sizes) if weighted else 1.0
    return {layer_type: scale / mean for layer_type, scale in every.items()}


def _all_types() -> list[str]:
    return [layer_type.value for layer_type in _layer_types.LayerType]


def _multipliers(numbers: Mapping[str, Any], labels: Any) -> jax.Array:
    """The number of each type; 1 for those that have none, or nothing to multiply."""
    present = {
        kind: number
        for kind, number in numbers.items()
        if kind in jax.tree.leaves(labels) and not isinstance(number, optax.GradientTransformation)
    }
    return jnp.stack([jnp.asarray(present.get(kind, 1.0), jnp.float32) for kind in _all_types()])


def _partition(scales: Mapping[str, Any], label: Any) -> optax.GradientTransformationExtraArgs:
    transforms = dict.fromkeys(_all_types(), optax.identity())
    for layer_type, scale in scales.items():
        is_transform = isinstance(scale, optax.GradientTransformation)
        transforms[str(layer_type)] = scale if is_transform else _scale(scale)
    return optax.partition(transforms, label)


def _scale(number: Any) -> optax.GradientTransformation:
    """``optax.scale``, but numbers of NumPy and JAX do not change the dtype of the updates."""
    return optax.stateless(
        lambda updates, _: jax.tree.map(
            lambda u: jnp.asarray(number, jnp.result_type(u)) * u, updates
        )
    )
