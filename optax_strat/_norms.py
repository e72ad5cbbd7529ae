"""Norms by layer type."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from optax_strat import _checks, _layer_types, _layout, _strata


def norms_by_layer_type(
    tree: Any,
    *,
    reduce: Literal["joint", "mean"] = "joint",
    layer_types: _layer_types.LayerTypes = None,
    unmatched: _layer_types.Unmatched = "error",
    stacked: _layout.Stacked = None,
) -> dict[str, jax.Array]:
    """The norm of a tree's leaves by layer type: of gradients, updates or parameters.

    Args:
      tree: gradients, updates or parameters.
      reduce: ``'joint'`` for the L2 norm of everything of a type (the squares add up to the square
        of the global norm); ``'mean'`` for the mean over the type's layers of their own norms, the
        reading of "Avg Gradient Norm" (Aardvark, Table 2) that does not grow with depth.
      layer_types: rules, or a function from a tree to labels; None means the default rules.
      unmatched: ``'error'`` or ``'other'``; see :func:`layer_types`.
      stacked: which containers hold stacked leaves, each slice of which is a layer.

    Returns:
      A float32 scalar for each layer type that the tree has, in the order of :class:`LayerType`.

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
    labels = _layer_types.labeler(layer_types, unmatched)(tree)
    if reduce == "mean":
        return mean_norms(tree, labels, stacked)
    # By way of the layers' norms, as in global_norm, so that XLA shares them with an optimizer's.
    return {
        kind: jnp.linalg.norm(jnp.sqrt(squares))
        for kind, squares in _by_type(tree, labels, stacked).items()
    }


def mean_norms(tree: Any, labels: Any, stacked: _layout.Stacked) -> dict[str, jax.Array]:
    """The mean norm of the layers of each type."""
    return {
        kind: jnp.mean(_strata.roots(squares))
        for kind, squares in _by_type(tree, labels, stacked).items()
    }


def _by_type(tree: Any, labels: Any, stacked: _layout.Stacked) -> dict[str, jax.Array]:
    """The sums of squares of the layers of each type that the tree has."""
    leaves = _layout.layout(tree, stacked)
    sums = _strata.square_sums(tree, leaves)
    kinds = jax.tree.leaves(labels)
    grouped = {}
    for layer_type in _layer_types.LayerType:
        parts = [
            sums[leaf.start : leaf.stop]
            for leaf, kind in zip(leaves, kinds, strict=True)
            if kind == layer_type
        ]
        if parts:
            grouped[layer_type.value] = jnp.concatenate(parts)
    return grouped
