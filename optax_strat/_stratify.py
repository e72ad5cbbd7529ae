"""A transformation for each layer type, and once, outside, what all of them share."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from optax_strat import _checks, _decay, _layer_types, _layout, _paths


def stratify(
    transforms: Mapping[str | tuple[str, ...], optax.GradientTransformation],
    layer_types: _layer_types.LayerTypes = None,
    unmatched: _layer_types.Unmatched = "error",
    *,
    learning_rate: optax.ScalarOrSchedule | None = None,
    clip: Any = None,
    weight_decay: Any = 0.0,
    mask: Any = None,
    stacked: _layout.Stacked = None,
) -> optax.GradientTransformationExtraArgs:
    """Gives each layer type, or group of layer types, a transformation of its own.

    "Integration with second-order methods" (StratOpt, 6): hidden matrices to Muon or Shampoo, the
    rest to Adam. A group named by a tuple shares one transformation, with one state and one count.

    What all groups share stands outside, once: a clip by the norm of *all* gradients (inside a
    group it would clip by the group's), decoupled weight decay of matrices only, and the learning
    rate with its schedule. So give groups directions (``optax.scale_by_adam()``), not optimizers.
    A group's own rate is a factor: ``optax.chain(optax.scale_by_adam(), optax.scale(0.1))``.

    Groups see their own parameters alone. Rules per tensor (LAMB's, Shampoo's) need
    :func:`per_layer` around them where layers are stacked; :func:`scale_by_muon` does not. Around
    it all, ``skip_nonfinite(stratify(...))`` keeps the counts of all groups equal when it skips.

    Args:
      transforms: a transformation for each layer type or tuple of layer types.
      layer_types: rules, or a function from a tree to labels; None means the default rules.
      unmatched: ``'error'`` or ``'other'``; see :func:`layer_types`.
      learning_rate: multiplies all updates, with the sign of descent; a number above 0 or a
        schedule. None returns directions, for a chain of your own.
      clip: the largest norm of all gradients together, above 0; None for no clip.
      weight_decay: decoupled, scaled by ``learning_rate``, 0 or above, or a schedule.
      mask: which parameters decay, as in ``optax.adamw``; None means matrices only: no norms, no
        biases, stacked ones included.
      stacked: which containers hold stacked leaves, for ``mask=None``.

    Returns:
      The transformation.

    Raises:
      ValueError: a layer type is unknown or stands in two groups, or a number lies outside its
        range; at ``init``, parameters have no layer type or no transformation (all their paths are
        listed).

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from optax_strat import scale_by_muon, stratify, warmup_cosine
      >>> tx = stratify(
      ...     {
      ...         ('attention', 'mlp'): scale_by_muon(),
      ...         ('embedding', 'head', 'norm'): optax.scale_by_adam(),
      ...     },
      ...     learning_rate=warmup_cosine(0.02, 1000, warmup_steps=0),
      ...     clip=1.0,
      ...     weight_decay=0.1,
      ... )
      >>> params = {'embed': jnp.ones((8, 4)), 'mlp': {'up': jnp.ones((4, 8))}}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> [round(u.item(), 3) for u in (updates['embed'][0, 0], updates['mlp']['up'][0, 0])]
      [-0.022, -0.003]
    """
    groups: dict[str, str] = {}
    for key in transforms:
        for layer_type in (key,) if isinstance(key, str) else key:
            _layer_types.check_layer_types("stratify", (layer_type,))
            if layer_type in groups:
                raise ValueError(f"The layer type {layer_type!r} stands in two groups of stratify.")
            groups[layer_type] = _group_name(key)
    if learning_rate is not None and not callable(learning_rate):
        _checks.check_positive("learning_rate", learning_rate)
    if clip is not None:
        _checks.check_positive("clip", clip)
    label = _layer_types.labeler(layer_types, unmatched)

    def group(tree: Any) -> Any:
        labels = label(tree)
        uncovered = {
            f"{'/'.join(names)} ({layer_type})": layer_type
            for (names, _), layer_type in zip(
                _paths.named_leaves(tree), jax.tree.leaves(labels), strict=True
            )
            if layer_type not in groups
        }
        if uncovered:
            raise ValueError(
                f"stratify has no transformation for these parameters:\n  "
                f"{_layer_types.listed(uncovered)}\n"
                f"Add their types to a group: {', '.join(sorted(set(uncovered.values())))}."
            )
        return jax.tree.map(lambda layer_type: groups[layer_type], labels)

    links = [
        optax.partition({_group_name(key): tx for key, tx in transforms.items()}, group),
        _decay.add_decay(weight_decay, mask, stacked, layer_types),
    ]
    if clip is not None:
        links.insert(0, optax.clip_by_global_norm(clip))
    if learning_rate is not None:
        links.append(optax.scale_by_learning_rate(learning_rate))
    return optax.chain(*links)


def _group_name(key: str | tuple[str, ...]) -> str:
    return str(key) if isinstance(key, str) else "+".join(key)
