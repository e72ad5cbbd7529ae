"""Statistics by layer type, kept in the optimizer's state and free when nobody asks for them.

What learning rates and gradients are multiplied by is read out of the states inside, which are
found by type, whatever lies around them: a chain, a guard, a partition whose parts have optimizers
of their own. Factors that follow each other multiply.
"""

import dataclasses
import functools
import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optax_strat import _checks, _layer_types, _layout, _states, _strata
from optax_strat._aardvark import ScaleByAardvarkState
from optax_strat._layer_types import LayerType
from optax_strat._layers import Layers, LayersLike, as_layers
from optax_strat._scaling import OTHERS, TABLE_2, AdaptLayerTypesState, ScaleByLayerTypeState
from optax_strat._second_moments import like_parameters
from optax_strat._stratopt import ScaleByStratoptState

Norms: TypeAlias = Literal["gradient", "update", "parameter"]
NORMS: tuple[Norms, ...] = get_args(Norms)

ByType: TypeAlias = dict[str, jax.Array]
"""A float32 scalar for each layer type."""


class RecordStatisticsState(NamedTuple):
    """State of :func:`record_statistics`; a type without parameters has zeros."""

    gradient: ByType | None
    """Norms of what the transformation was given; None if not asked for."""
    update: ByType | None
    """Norms of what it returned, likewise."""
    parameter: ByType | None
    """Norms of the parameters before the step, likewise; zero where none were passed."""
    alpha: ByType | None
    """The mean α over each type's layers; None where nothing has one."""
    clip_factor: ByType | None
    """The mean factor of clipping over each type's layers, likewise."""
    inner_state: Any


def record_statistics(
    inner: optax.GradientTransformation,
    norms: Collection[Norms] = NORMS,
    *,
    types: Sequence[str] | None = None,
    layers: LayersLike = Layers(),
    stratum: _strata.Stratum = "layer",
) -> optax.GradientTransformationExtraArgs:
    r"""Keeps the last step's statistics by layer type in the state.

    The "layer-specific gradient statistics" of Aardvark's Table 2, and more, without a second
    program and without a transfer until somebody looks. By layer type they are

    - the norms of gradients, updates and parameters;
    - both papers' α, which the learning rate is multiplied by: the mean over the type's layers of
      :math:`\alpha_t` (StratOpt, 3.1), or the multiplier :math:`\alpha_l` of
      :func:`scale_by_layer_type` and :func:`aardvark`, fixed, normalized or adaptive;
    - the mean factor by which :func:`stratopt` or :func:`aardvark` clipped the layers' gradients.

    The last two are found in the state of ``inner`` by type, wherever they sit in it. They and the
    gradient norms are there anyway in our optimizers, and cost nothing more. The other norms cost a
    read of updates and parameters each, and on CPUs a write of the updates too.

    Around a guard, a skipped step is recorded like any other: a gradient norm that is not finite,
    updates of zero. Inside one, the last good step stays on record.

    Args:
      inner: any transformation, usually a complete optimizer.
      norms: which norms to keep: ``'gradient'``, ``'update'``, ``'parameter'``.
      types: the layer types to keep statistics of; None means all that ``layers`` can give. Where
        ``layers`` is a function that gives types of its own, nobody else can name them.
      layers: how layers and their types are found, as for the optimizer; see :class:`Layers`.
      stratum: what has one α in StratOpt, as in :class:`StratoptReadings`.

    Returns:
      The transformation; :func:`read_statistics` finds its state, a :class:`RecordStatisticsState`.

    Raises:
      ValueError: a name in ``norms`` is unknown; at ``init``, a parameter has no layer type, a type
        is not among ``types``, or ``stratum`` and ``layers`` do not fit the optimizer's state.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from optax_strat import aardvark, read_statistics, record_statistics
      >>> tx = record_statistics(aardvark(0.1, weight_decay=0.0))
      >>> params = {'embed': jnp.array([3.0, 4.0]), 'lm_head': jnp.array([[12.0]])}
      >>> _, state = tx.update(params, tx.init(params), params)
      >>> for name, by_type in read_statistics(state).items():
      ...     print(name, {kind: round(float(x), 4) for kind, x in by_type.items() if x})
      gradient {'embedding': 5.0, 'head': 12.0}
      update {'embedding': 0.1414, 'head': 0.18}
      parameter {'embedding': 5.0, 'head': 12.0}
      alpha {'embedding': 1.0, 'head': 1.8}
      clip_factor {'embedding': 0.0769, 'head': 0.0769}
      skips {}
    """
    for name in norms:
        _checks.check_choice("Each of norms", name, NORMS)
    layers = as_layers(layers)
    kinds = tuple(map(str, types or layers.types() or LayerType))
    inner = optax.with_extra_args_support(inner)

    def measure(name: Norms, tree: Any) -> ByType | None:
        if name not in norms:
            return None
        found = _strata.norms_by_layer_type(tree, layers=layers)
        return {kind: found.get(kind, jnp.float32(0)) for kind in kinds}

    def factors(inner_state: Any, tree: Any) -> tuple[ByType | None, ByType | None]:
        """The means of α and of the clip factor by type, for a tree like the parameters."""
        leaves = layers.layout(tree)
        kinds_of_layers = tuple(_strata.types_of(leaves, tree, layers))
        found = _Factors(layers, leaves, kinds_of_layers, stratum)
        return (
            found.mean_by_type(found.alphas(inner_state), kinds),
            found.mean_by_type(found.clip_factors(inner_state), kinds),
        )

    def init(params: Any) -> RecordStatisticsState:
        _checks.check_arrays(params)
        unknown = sorted({*jax.tree.leaves(layers.labels(params))} - {*kinds})
        if unknown:
            raise ValueError(
                f"record_statistics keeps the layer types {', '.join(kinds)}, but there are "
                f"parameters of the type {unknown[0]!r}: name all of them in types=(...)."
            )
        inner_state = inner.init(params)
        zeros = {
            name: {kind: jnp.zeros([], jnp.float32) for kind in kinds} if name in norms else None
            for name in NORMS
        }
        alpha, clip_factor = factors(inner_state, params)
        return RecordStatisticsState(
            **zeros, alpha=alpha, clip_factor=clip_factor, inner_state=inner_state
        )

    def update(
        updates: Any, state: RecordStatisticsState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, RecordStatisticsState]:
        if _states.find_states(state.inner_state, ScaleByLayerTypeState):
            extra_args["record"] = True
        outputs, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        alpha, clip_factor = factors(inner_state, updates)
        return outputs, RecordStatisticsState(
            gradient=measure("gradient", updates),
            update=measure("update", outputs),
            parameter=state.parameter if params is None else measure("parameter", params),
            alpha=alpha,
            clip_factor=clip_factor,
            inner_state=inner_state,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def read_statistics(opt_state: optax.OptState) -> dict[str, dict[str, jax.Array]]:
    """Reads what :func:`record_statistics` kept, wherever it sits in an optimizer state.

    Works inside ``jax.jit``, so that a step can return it as a metric without a wait.

    Args:
      opt_state: the state of an optimizer that contains :func:`record_statistics`.

    Returns:
      ``{'gradient': {type: norm}, 'update': ..., 'parameter': ...}`` with float32 scalars for all
      layer types that there can be; a type without parameters has zeros. ``'alpha'`` and
      ``'clip_factor'`` likewise, and ``'skips'`` with ``'total'`` and ``'consecutive'``, each only
      where something in the optimizer has such a thing: SGD has none of them.

    Raises:
      ValueError: the state contains none, or several.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from optax_strat import read_statistics, record_statistics, skip_nonfinite
      >>> tx = skip_nonfinite(record_statistics(optax.sgd(0.1)))
      >>> list(read_statistics(tx.init({'mlp': jnp.ones(2)})))
      ['gradient', 'update', 'parameter', 'skips']
    """
    found = _states.find_one(opt_state, RecordStatisticsState, "record_statistics")
    # A dict that went through jax.jit comes back sorted.
    statistics = {
        name: {kind: by_type[kind] for kind in _layer_types.in_order(by_type)}
        for name, by_type in found._asdict().items()
        if name != "inner_state" and by_type is not None
    }
    counts = _states.traced_counts(opt_state)
    if counts is not None:
        statistics["skips"] = {"total": counts[0], "consecutive": counts[1]}
    return statistics


@dataclasses.dataclass(frozen=True)
class _Factors:
    """What an optimizer multiplies the layers of a tree by."""

    layers: Layers
    leaves: tuple[_layout.Leaf, ...]
    kinds: tuple[str, ...]
    """The type of each layer."""
    stratum: _strata.Stratum
    """What has one α in StratOpt."""

    def alphas(self, opt_state: Any) -> jax.Array | None:
        """What each layer's learning rate is multiplied by; None where no state says so."""
        every = functools.partial(_states.find_states, opt_state)
        return _product(
            *(
                self._of_strata(s.alpha, self.stratum, like_parameters(s.nu))
                for s in every(ScaleByStratoptState)
            ),
            *(
                self._of_types(dict(zip(TABLE_2, s.multipliers, strict=True)))
                for s in every(AdaptLayerTypesState)
            ),
            *(self._of_types(s.multipliers) for s in every(ScaleByLayerTypeState)),
        )

    def clip_factors(self, opt_state: Any) -> jax.Array | None:
        """What clipping multiplies each layer's gradient by; None where no state says so."""
        every = functools.partial(_states.find_states, opt_state)
        return _product(
            *(
                self._of_strata(s.clip_factor, self.stratum, like_parameters(s.nu))
                for s in every(ScaleByStratoptState)
            ),
            *(self._of_strata(s.clip_factor, "layer", s.mu) for s in every(ScaleByAardvarkState)),
        )

    def mean_by_type(self, factors: jax.Array | None, kinds: Sequence[str]) -> ByType | None:
        """The mean over the layers of each type; zero where there are none."""
        if factors is None:
            return None
        member = np.asarray([[kind == mine for mine in self.kinds] for kind in kinds], bool)
        counts = np.maximum(member.sum(axis=1), 1).astype(np.float32)
        means = jnp.sum(jnp.where(member, factors, 0.0), axis=1) / counts
        return {kind: means[index] for index, kind in enumerate(kinds)}

    def _of_types(self, multipliers: Mapping[str, jax.Array]) -> jax.Array:
        """From one factor per type to one per layer; types without one have that of all others."""
        position = {kind: index for index, kind in enumerate(multipliers)}
        others = position.get(OTHERS, -1)
        indices = [position.get(kind, others) for kind in self.kinds]
        return _pick(jnp.stack([*multipliers.values()]), indices)

    def _of_strata(self, vector: jax.Array, stratum: _strata.Stratum, tree: Any) -> jax.Array:
        """From one factor per stratum of a part of the tree to one per layer; others have 1."""
        strata = _strata.strata(tree, self.layers, stratum)
        count = sum(leaf.count for leaf in strata.leaves)
        groups = tuple(range(count)) if strata.groups is None else strata.groups
        if vector.ndim == 0:
            vector, groups = vector[None], (0,) * count
        elif vector.shape != (len(strata.names),):
            raise ValueError(
                f"The optimizer's state has {vector.size} strata, but the parameters make "
                f"{len(strata.names)}: tell record_statistics the same stratum and layers as the "
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


def _pick(vector: jax.Array, indices: list[int]) -> jax.Array:
    """The entries at the indices; 1 at the index -1."""
    return jnp.append(vector, 1.0)[np.asarray(indices, np.int32)]


def _product(*factors: jax.Array) -> jax.Array | None:
    return functools.reduce(operator.mul, factors) if factors else None
