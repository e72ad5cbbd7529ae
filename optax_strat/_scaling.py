"""Different updates for different layer types."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from optax_strat import _checks, _layer_types, _paths


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
      The transformation.

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
        _checks.check_not_negative(f"The scale of {layer_type!r}", scale)
    label = _layer_types.labeler(layer_types, unmatched)
    if not normalize:
        return _partition(scales, label)
    for layer_type, scale in scales.items():
        if not _checks.is_number(scale):
            raise ValueError(f"normalize=True needs numbers, but {layer_type!r} has {scale!r}.")

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        normalized = normalized_scales(scales, updates, label(updates))
        return _partition(normalized, label).update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(_partition(scales, label).init, update)


def normalized_scales(scales: Mapping[str, float], tree: Any, labels: Any) -> dict[str, float]:
    """All types' multipliers, divided by their mean over the parameters of a tree."""
    every = {layer_type: float(scales.get(layer_type, 1.0)) for layer_type in _all_types()}
    sizes = [int(jax.numpy.size(leaf)) for leaf in jax.tree.leaves(tree)]
    weighted = sum(
        every[kind] * size for kind, size in zip(jax.tree.leaves(labels), sizes, strict=True)
    )
    mean = weighted / sum(sizes) if weighted else 1.0
    return {layer_type: scale / mean for layer_type, scale in every.items()}


def stratify(
    transforms: Mapping[str | tuple[str, ...], optax.GradientTransformation],
    layer_types: _layer_types.LayerTypes = None,
    unmatched: _layer_types.Unmatched = "error",
) -> optax.GradientTransformationExtraArgs:
    """Gives each layer type, or group of layer types, a transformation of its own.

    "Integration with second-order methods" (StratOpt, 6): hidden matrices to Muon or Shampoo, the
    rest to Adam. A group named by a tuple shares one transformation, with one state and one count.
    Put what all groups share outside, in a chain: a global clip before (inside, it would clip by
    the group's norm), learning rate and weight decay after.

    Args:
      transforms: a transformation for each layer type or tuple of layer types.
      layer_types: rules, or a function from a tree to labels; None means the default rules.
      unmatched: ``'error'`` or ``'other'``; see :func:`layer_types`.

    Returns:
      The transformation.

    Raises:
      ValueError: a layer type is unknown or stands in two groups; at ``init``, parameters have no
        layer type or no transformation (all their paths are listed).

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from optax_strat import stratify
      >>> matrix = optax.contrib.MuonDimensionNumbers()
      >>> muon = optax.contrib.scale_by_muon(
      ...     weight_dimension_numbers=lambda tree: jax.tree.map(lambda _: matrix, tree))
      >>> tx = optax.chain(
      ...     optax.clip_by_global_norm(1.0),
      ...     stratify({
      ...         ('attention', 'mlp'): muon,
      ...         ('embedding', 'head', 'norm'): optax.scale_by_adam(),
      ...     }),
      ...     optax.scale_by_learning_rate(0.02),
      ... )
      >>> params = {'embed': jnp.ones((8, 4)), 'mlp': {'up': jnp.ones((4, 8))}}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> [round(u.item(), 3) for u in (updates['embed'][0, 0], updates['mlp']['up'][0, 0])]
      [-0.02, -0.002]
    """
    groups: dict[str, str] = {}
    for key in transforms:
        for layer_type in (key,) if isinstance(key, str) else key:
            _layer_types.check_layer_types("stratify", (layer_type,))
            if layer_type in groups:
                raise ValueError(f"The layer type {layer_type!r} stands in two groups of stratify.")
            groups[layer_type] = _group_name(key)
    label = _layer_types.labeler(layer_types, unmatched)

    def group(tree: Any) -> Any:
        labels = label(tree)
        uncovered = [
            f"{'/'.join(names)} ({layer_type})"
            for (names, _), layer_type in zip(
                _paths.named_leaves(tree), jax.tree.leaves(labels), strict=True
            )
            if layer_type not in groups
        ]
        if uncovered:
            listed = "\n  ".join(uncovered)
            raise ValueError(f"stratify has no transformation for these parameters:\n  {listed}")
        return jax.tree.map(lambda layer_type: groups[layer_type], labels)

    return optax.partition({_group_name(key): tx for key, tx in transforms.items()}, group)


def _group_name(key: str | tuple[str, ...]) -> str:
    return str(key) if isinstance(key, str) else "+".join(key)


def _all_types() -> list[str]:
    return [layer_type.value for layer_type in _layer_types.LayerType]


def _partition(scales: Mapping[str, Any], label: Any) -> optax.GradientTransformationExtraArgs:
    transforms = dict.fromkeys(_all_types(), optax.identity())
    for layer_type, scale in scales.items():
        is_transform = isinstance(scale, optax.GradientTransformation)
        transforms[str(layer_type)] = scale if is_transform else optax.scale(scale)
    return optax.partition(transforms, label)
