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
import optax

from optax_strat import _sums
from optax_strat._axes import AxisName
from optax_strat._layers import Layers, LayersLike, as_layers
from optax_strat._layout import Leaf

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


def _as_factor(layers: jax.Array, leaf: Leaf, ndim: int) -> jax.Array:
    part = jax.lax.slice_in_dim(layers, leaf.start, leaf.stop)
    if leaf.axis is None:
        return jnp.squeeze(part, 0)
    return jnp.expand_dims(part, [dim for dim in range(ndim) if dim != leaf.axis])
