"""What the optimizers multiply learning rates and gradients by, layer by layer.

Read out of their states, which are found by type, whatever lies around them: a chain, a guard, a
partition whose parts have optimizers of their own. Factors that follow each other multiply.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optax_strat import _layer_types, _layout, _states, _strata
from optax_strat._aardvark import ScaleByAardvarkState
from optax_strat._adaptive import ADAPTED, AdaptLayerTypesState
from optax_strat._layer_types import LayerType
from optax_strat._scaling import ScaleByLayerTypeState
from optax_strat._stratopt import ScaleByStratoptState


@dataclasses.dataclass(frozen=True)
class Layers:
    """The layers of a tree of parameters, and how its optimizer groups them."""

    leaves: tuple[_layout.Leaf, ...]
    kinds: tuple[str, ...]
    """The type of each layer."""
    lay_out: Callable[[Any, _strata.Stratum], _strata.Strata]
    """Finds the strata of the tree, or of a part of it."""
    stratum: _strata.Stratum
    """What has one α in StratOpt."""

    def alphas(self, opt_state: Any) -> jax.Array | None:
        """What each layer's learning rate is multiplied by; None where no state says so."""
        every = functools.partial(_states.find_states, opt_state)
        return _product(
            *(self._of_strata(s.alpha, self.stratum, s.mu) for s in every(ScaleByStratoptState)),
            *(self._of_types(s.multipliers, ADAPTED) for s in every(AdaptLayerTypesState)),
            *(self._of_types(s.multipliers, (*LayerType,)) for s in every(ScaleByLayerTypeState)),
        )

    def clip_factors(self, opt_state: Any) -> jax.Array | None:
        """What clipping multiplies each layer's gradient by; None where no state says so."""
        every = functools.partial(_states.find_states, opt_state)
        return _product(
            *(
                self._of_strata(s.clip_factor, self.stratum, s.mu)
                for s in every(ScaleByStratoptState)
            ),
            *(self._of_strata(s.clip_factor, "layer", s.mu) for s in every(ScaleByAardvarkState)),
        )

    def mean_by_type(self, factors: jax.Array | None) -> jax.Array | None:
        """The mean over the layers of each :class:`LayerType`; zero where there are none."""
        if factors is None:
            return None
        member = np.asarray([[kind == one for one in self.kinds] for kind in LayerType], bool)
        counts = np.maximum(member.sum(axis=1), 1).astype(np.float32)
        return jnp.sum(jnp.where(member, factors, 0.0), axis=1) / counts

    def _of_types(self, vector: jax.Array, kinds: Sequence[str]) -> jax.Array:
        """From one factor per type to one per layer; other types have 1."""
        position = {str(kind): index for index, kind in enumerate(kinds)}
        return _pick(vector, [position.get(kind, -1) for kind in self.kinds])

    def _of_strata(self, vector: jax.Array, stratum: _strata.Stratum, tree: Any) -> jax.Array:
        """From one factor per stratum of a part of the tree to one per layer; others have 1."""
        strata = self.lay_out(tree, stratum)
        count = sum(leaf.count for leaf in strata.leaves)
        groups = tuple(range(count)) if strata.groups is None else strata.groups
        if vector.ndim == 0:
            vector, groups = vector[None], (0,) * count
        elif vector.shape != (len(strata.names),):
            raise ValueError(
                f"The optimizer's state has {vector.size} strata, but the parameters make "
                f"{len(strata.names)}: tell record_statistics the same stratum and stacked as the "
                f"optimizer, not stratum={stratum!r}."
            )
        first = {leaf.name: leaf.start for leaf in strata.leaves}
        return _pick(
            vector,
            [
                groups[first[leaf.name] + offset] if leaf.name in first else -1
                for leaf in self.leaves
                for offset in range(leaf.count)
            ],
        )


def layers(
    tree: Any,
    stratum: _strata.Stratum,
    stacked: _layout.Stacked,
    layer_types: _layer_types.LayerTypes,
    unmatched: _layer_types.Unmatched,
) -> Layers:
    """The layers of a tree like the parameters; the arguments are those of its optimizer."""
    leaves = _layout.layout(tree, stacked)
    labels = jax.tree.leaves(_layer_types.labeler(layer_types, unmatched)(tree))
    return Layers(
        leaves=leaves,
        kinds=tuple(
            kind for leaf, kind in zip(leaves, labels, strict=True) for _ in range(leaf.count)
        ),
        lay_out=lambda part, stratum: _strata.strata(
            part, stratum, stacked, layer_types, unmatched
        ),
        stratum=stratum,
    )


def _pick(vector: jax.Array, indices: list[int]) -> jax.Array:
    """The entries at the indices; 1 at the index -1."""
    return jnp.append(vector, 1.0)[np.asarray(indices, np.int32)]


def _product(*factors: jax.Array) -> jax.Array | None:
    return functools.reduce(operator.mul, factors) if factors else None
