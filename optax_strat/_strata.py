"""Strata: vectors of one number for each layer, each block or each layer type of a tree.

Whatever an optimizer here knows about a layer (its gradient's norm, its clipping factor) is one
entry of a float32 vector, in the order of the leaves. A vector and not a tree of scalars, because
it is one small replicated array on every mesh, and the sums that fill it meet in one all-reduce.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_strat import _checks, _layer_types, _sums
from optax_strat._layers import Layers, LayersLike, as_layers
from optax_strat._layout import Leaf
from optax_strat._meshes import AxisName

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
    axis_name: AxisName = None
    """The mesh axes over which the tree is split where its types do not say so."""

    def norms(self, tree: Any) -> jax.Array:
        """The L2 norm of every stratum of a tree, float32 of shape (strata,), never infinite."""
        layers = _sums.squares(tree, self.leaves, self.axis_name)
        norms = _sums.roots(_sums.Squares(*map(self.sums, layers)))
        return jnp.minimum(norms, _sums.LARGEST)

    def inner_products(self, tree: Any, other: Any) -> jax.Array:
        """The real inner product of two trees in every stratum, float32 of shape (strata,)."""
        return self.sums(_sums.inner_products(tree, other, self.leaves, self.axis_name))

    def sums(self, layers: jax.Array) -> jax.Array:
        """Adds up one number per layer to one per stratum."""
        if self.groups is None:
            return layers
        # A masked sum and not a scatter: the same on every mesh, and always in the same order.
        member = np.arange(len(self.names))[:, None] == np.asarray(self.groups)[None, :]
        return jnp.sum(jnp.where(member, layers[None, :], 0.0), axis=1)

    def check_vector(self, vector: jax.Array) -> None:
        """Raises ValueError where a state was made for other strata than these."""
        if vector.shape != (len(self.names),):
            raise ValueError(
                f"the state is of {vector.size} layers, and the gradients have {len(self.names)}: "
                "init must see the same parameters, with the same layers=Layers(stacked=...)."
            )

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
    tree: Any, layers: Layers, stratum: Stratum = "layer", axis_name: AxisName = None
) -> Strata:
    """Lays out the strata of a tree. Only ``stratum='type'`` asks for layer types."""
    leaves = layers.layout(tree)
    match stratum:
        case "layer":
            names = tuple(name for leaf in leaves for name in leaf.entries(leaf.name))
            return Strata(leaves, names, None, axis_name)
        case "block":
            keys = [name for leaf in leaves for name in leaf.entries(leaf.block)]
        case "type":
            keys = types_of(leaves, tree, layers)
    names = tuple(dict.fromkeys(keys))
    position = {name: index for index, name in enumerate(names)}
    return Strata(leaves, names, tuple(position[key] for key in keys), axis_name)


def types_of(leaves: Sequence[Leaf], tree: Any, layers: Layers) -> list[str]:
    """The type of each layer of a tree that is laid out so."""
    labels = jax.tree.leaves(layers.labels(tree))
    return [label for leaf, label in zip(leaves, labels, strict=True) for _ in range(leaf.count)]


def strata_names(
    params: optax.Params,
    stratum: Stratum = "layer",
    *,
    layers: LayersLike = Layers(),
) -> tuple[str, ...]:
    """Names the entries of the vectors in StratOpt's state, such as ``gbar`` and ``alpha``.

    Args:
      params: the tree of parameters, or of their shapes.
      stratum: what has an entry, as the optimizer was told: ``'layer'``, ``'block'`` or ``'type'``.
      layers: how layers and their types are found; see :class:`Layers`.

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
    return strata(params, as_layers(layers), stratum).names


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
    norms = _norms_by_type(tree, layers, axis_name)
    return {kind: _sums.joint_norm(of_layers) for kind, of_layers in norms.items()}


def mean_norms(tree: Any, layers: Layers, axis_name: AxisName = None) -> dict[str, jax.Array]:
    """The mean norm of the layers of each type."""
    norms = _norms_by_type(tree, layers, axis_name)
    return {kind: jnp.sum(of_layers / of_layers.size) for kind, of_layers in norms.items()}


def _norms_by_type(tree: Any, layers: Layers, axis_name: AxisName) -> dict[str, jax.Array]:
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


def _as_factor(layers: jax.Array, leaf: Leaf, ndim: int) -> jax.Array:
    part = jax.lax.slice_in_dim(layers, leaf.start, leaf.stop)
    if leaf.axis is None:
        return jnp.squeeze(part, 0)
    return jnp.expand_dims(part, [dim for dim in range(ndim) if dim != leaf.axis])
