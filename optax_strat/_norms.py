"""Norms by layer type."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from optax_strat import _checks, _layer_types, _sums
from optax_strat._axes import AxisName
from optax_strat._layers import Layers, LayersLike, as_layers


def norms_by_layer_type(
    tree: optax.Updates,
    *,
    reduce: Literal["joint", "mean"] = "joint",
    layers: LayersLike = Layers(),
    axis_name: AxisName = None,
) -> dict[str, jax.Array]:
    """The norm of a tree's leaves by layer type: of gradients, updates or parameters.

    Args:
      tree: gradients, updates or parameters.
      reduce: ``'joint'`` for the L2 norm of everything of a type (the squares add up to the square
        of the global norm); ``'mean'`` for the mean over the type's layers of their own norms, the
        reading of "Avg Gradient Norm" (Aardvark, Table 2) that does not grow with depth.
      layers: how layers and their types are found; see :class:`Layers`. Each slice of a stacked
        leaf is a layer.
      axis_name: for ``jax.shard_map`` with ``check_vma=False``; see :func:`clip_by_layer_norm`.

    Returns:
      A float32 scalar for each layer type that the tree has: those of :class:`LayerType` in
      its order, then your own.

    Raises:
      ValueError: ``reduce`` is unknown, or a parameter has no layer type.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_strat import norms_by_layer_type
      >>> gradients = {'embed': jnp.array([3.0, 4.0]), 'attn': jnp.array([[6.0], [8.0]])}
      >>> {kind: float(norm) for kind, norm in norms_by_layer_type(gradients).items()}
      {'embedding': 5.0, 'attention': 10.0}
    """
    _checks.check_choice("reduce", reduce, ("joint", "mean"))
    layers = as_layers(layers)
    if reduce == "mean":
        return mean_norms(tree, layers, axis_name)
    norms = _by_type(tree, layers, axis_name)
    return {kind: _sums.joint_norm(of_layers) for kind, of_layers in norms.items()}


def mean_norms(tree: Any, layers: Layers, axis_name: AxisName = None) -> dict[str, jax.Array]:
    """The mean norm of the layers of each type."""
    norms = _by_type(tree, layers, axis_name)
    return {kind: jnp.sum(of_layers / of_layers.size) for kind, of_layers in norms.items()}


def _by_type(tree: Any, layers: Layers, axis_name: AxisName) -> dict[str, jax.Array]:
    """The norms of the layers of each type that the tree has."""
    leaves = layers.layout(tree)
    # By way of the layers' norms, as in global_norm, so that XLA shares them with an optimizer's.
    norms = _sums.roots(_sums.squares(tree, leaves, axis_name))
    labels = jax.tree.leaves(layers.labels(tree))
    return {
        kind: jnp.concatenate(
            [
                norms[leaf.start : leaf.stop]
                for leaf, label in zip(leaves, labels, strict=True)
                if label == kind
            ]
        )
        for kind in _layer_types.in_order(labels)
    }
