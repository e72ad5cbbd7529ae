"""Strata: what the optimizers know of a tree's layers, as vectors.

Everything that an optimizer here knows about a layer is one entry of a float32 vector in the order
of the leaves. One vector, and no tree of scalars: it is one small replicated array on every mesh,
and the reductions that fill it meet in one all-reduce.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from optax_strat import _layer_types
from optax_strat._layout import Leaf, Stacked, layout

Stratum = Literal["layer", "block", "type"]
"""What shares one entry: a layer (a tensor, or a slice of a stacked one), a block of the network
with all its tensors, or all layers of a type."""


@dataclasses.dataclass(frozen=True)
class Strata:
    """Which entries of a vector belong to which layers of a tree."""

    leaves: tuple[Leaf, ...]
    names: tuple[str, ...]
    groups: tuple[int, ...] | None
    """The entry of each layer; None where each layer has its own."""

    def norms(self, tree: Any) -> jax.Array:
        """The L2 norm of every stratum of a tree, float32 of shape (strata,)."""
        return roots(self.sums(square_sums(tree, self.leaves)))

    def sums(self, layers: jax.Array) -> jax.Array:
        """Adds up one number per layer to one per stratum."""
        if self.groups is None:
            return layers
        # A masked sum and not a scatter: the same on every mesh, and always in the same order.
        member = np.arange(len(self.names))[:, None] == np.asarray(self.groups)[None, :]
        return jnp.sum(jnp.where(member, layers[None, :], 0.0), axis=1)

    def spread(self, vector: Any, tree: Any) -> list[Any]:
        """Each leaf's part of a vector over strata, shaped to broadcast against the leaf.

        A number in the vector's place is every leaf's.
        """
        if jnp.ndim(vector) == 0:
            return [vector] * len(self.leaves)
        layers = vector if self.groups is None else vector[np.asarray(self.groups, np.int32)]
        return [
            _as_factor(layers, leaf, jnp.ndim(x))
            for leaf, x in zip(self.leaves, jax.tree.leaves(tree), strict=True)
        ]


def strata(
    tree: Any,
    stratum: Stratum = "layer",
    stacked: Stacked = None,
    layer_types: _layer_types.LayerTypes = None,
    unmatched: _layer_types.Unmatched = "error",
) -> Strata:
    """Lays out the strata of a tree. Only ``stratum='type'`` asks for layer types."""
    leaves = layout(tree, stacked)
    match stratum:
        case "layer":
            names = tuple(name for leaf in leaves for name in leaf.entries(leaf.name))
            return Strata(leaves, names, None)
        case "block":
            keys = [name for leaf in leaves for name in leaf.entries(leaf.block)]
        case "type":
            labels = jax.tree.leaves(_layer_types.labeler(layer_types, unmatched)(tree))
            keys = [
                label for leaf, label in zip(leaves, labels, strict=True) for _ in range(leaf.count)
            ]
    names = tuple(dict.fromkeys(keys))
    position = {name: index for index, name in enumerate(names)}
    return Strata(leaves, names, tuple(position[key] for key in keys))


def strata_names(
    params: Any,
    stratum: Stratum = "layer",
    *,
    stacked: Stacked = None,
    layer_types: _layer_types.LayerTypes = None,
    unmatched: _layer_types.Unmatched = "error",
) -> tuple[str, ...]:
    """Names the entries of the vectors in StratOpt's state, such as ``gbar`` and ``alpha``.

    Args:
      params: the tree of parameters, or of their shapes.
      stratum: what the optimizer got, as for all the others.
      stacked: which containers hold stacked leaves.
      layer_types: rules, or a function from a tree to labels; None means the default rules.
      unmatched: ``'error'`` or ``'other'``; see :func:`layer_types`.

    Returns:
      One name per entry, in the vectors' order.

    Raises:
      ValueError: for ``stratum='type'``, a parameter has no layer type.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_strat import strata_names
      >>> params = {'embed': jnp.ones((8, 4)), 'layers': {'mlp': jnp.ones((2, 4, 4))}}
      >>> strata_names(params)
      ('embed', 'layers/mlp[0]', 'layers/mlp[1]')
    """
    return strata(params, stratum, stacked, layer_types, unmatched).names


def roots(squares: jax.Array) -> jax.Array:
    """Norms from sums of squares; of sums that overflow, the largest norm that does not.

    An infinite norm would leave averages over it infinite, and their ratios NaN, for ever.
    """
    return jnp.sqrt(jnp.minimum(squares, jnp.finfo(jnp.float32).max))


def square_sums(tree: Any, leaves: Sequence[Leaf]) -> jax.Array:
    """The sum of squares of every layer, float32 of shape (layers,)."""
    return _per_layer(_abs_squares, leaves, tree)


def inner_products(tree: Any, other: Any, leaves: Sequence[Leaf]) -> jax.Array:
    """The real inner product of two trees in every layer, float32 of shape (layers,)."""
    return _per_layer(lambda x, y: (_wide(x) * jnp.conj(_wide(y))).real, leaves, tree, other)


def global_norm(tree: Any, stacked: Stacked = None) -> jax.Array:
    """The L2 norm of a whole tree, a float32 scalar.

    By way of the layers' norms, so that XLA shares them with whatever else needs them; without the
    roots it would add up all squares anew, and write them down to use them twice.
    """
    return jnp.linalg.norm(jnp.sqrt(square_sums(tree, layout(tree, stacked))))


def _per_layer(measure: Any, leaves: Sequence[Leaf], *trees: Any) -> jax.Array:
    """Sums ``measure`` of the leaves over each layer, and joins the sums to one vector."""
    parts = []
    for leaf, *arrays in zip(leaves, *(jax.tree.leaves(tree) for tree in trees), strict=True):
        values = measure(*arrays)
        # Sums over dimensions and never `ravel`: reshaping a sharded leaf fails on explicit meshes.
        over = tuple(dim for dim in range(values.ndim) if dim != leaf.axis)
        parts.append(_replicated(jnp.atleast_1d(jnp.sum(values, axis=over).astype(jnp.float32))))
    return jnp.concatenate(parts) if parts else jnp.zeros((0,), jnp.float32)


def _replicated(part: jax.Array) -> jax.Array:
    """Gathers sums of layers that lie on an explicit mesh themselves, so that all can be joined."""
    if any(jax.typeof(part).sharding.spec):
        return jax.sharding.reshard(part, jax.sharding.PartitionSpec(None))
    return part


def _abs_squares(x: Any) -> jax.Array:
    wide = _wide(x)
    return wide.real**2 + wide.imag**2 if jnp.iscomplexobj(wide) else wide * wide


def _wide(x: Any) -> jax.Array:
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _as_factor(layers: jax.Array, leaf: Leaf, ndim: int) -> jax.Array:
    part = jax.lax.slice_in_dim(layers, leaf.start, leaf.stop)
    if leaf.axis is None:
        return jnp.squeeze(part, 0)
    return jnp.expand_dims(part, [dim for dim in range(ndim) if dim != leaf.axis])
