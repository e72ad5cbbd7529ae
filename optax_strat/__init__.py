"""Stratified optimization for Optax: updates that know which layer they belong to.

Two optimizers for language models, and the parts that they are made of, as Optax gradient
transformations over any tree of parameters: plain dicts, Flax NNX and Linen, Equinox, Haiku.

The optimizers
    :func:`stratopt` gives each layer a learning rate that follows its own gradient norm.
    :func:`aardvark` is AdamW with a multiplier for each layer type, clipping, and a guard against
    gradients that are not finite. Both come from papers that leave things open; each default says
    where it comes from; :class:`StratoptReadings` and :class:`Adaptive` hold other readings.

What a layer is
    :func:`layer_types` labels parameters by their paths, :func:`describe` prints what the
    optimizers make of them, and leaves that stack a model's layers (``[L, ...]``, as ``lax.scan``
    wants them) count as L layers everywhere. :class:`Layers` teaches it your own names, types and
    stacks; a label tree or function, as for ``optax.multi_transform``, may stand in its place.

The parts, for chains of your own
    :func:`stratify`, parameter groups of a transformation, rate and decay each (:class:`Group`,
    :func:`scale_by_muon`); :func:`scale_by_layer_type`, :func:`scale_by_depth` and
    :func:`scale_by_width`; :func:`scale_by_stratopt` and :func:`scale_by_aardvark`;
    :func:`clip_by_layer_norm`, :func:`per_layer`, :func:`decays` (a mask), :func:`skip_nonfinite`,
    :func:`repair_nonfinite`, :func:`dynamic_loss_scale`, :func:`record_statistics`,
    :func:`norms_by_layer_type`, :func:`warmup_cosine`, :func:`muon_dimensions`.

Reading a state
    :func:`learning_rate_of`, :func:`skip_counts`, :func:`raise_if_stuck`, :func:`loss_scale`,
    :func:`read_statistics` and :func:`find_states` find what they look for by type, wherever it
    sits; :func:`strata_names` names the entries of StratOpt's vectors.

Examples:
    A model in small, with two stacked layers:

    >>> import jax, jax.numpy as jnp, optax
    >>> import optax_strat
    >>> params = {
    ...     'embed': {'embedding': jnp.ones((16, 4))},
    ...     'layers': {'norm': {'scale': jnp.ones((2, 4))}, 'mlp': {'kernel': jnp.ones((2, 4, 4))}},
    ...     'head': {'kernel': jnp.ones((4, 16))},
    ... }
    >>> print(optax_strat.describe(params))
    path               shape  type       layers  multiplier  decay  share
    -----------------  -----  ---------  ------  ----------  -----  -----
    embed/embedding    16×4   embedding       1           1  yes    38.1%
    head/kernel        4×16   head            1         1.8  yes    38.1%
    layers/mlp/kernel  2×4×4  mlp             2         1.2  yes    19.0%
    layers/norm/scale  2×4    norm            2           1  no      4.8%
    -----------------  -----  ---------  ------  ----------  -----  -----
    168 parameters in 4 arrays, 6 layers

    An optimizer is used as any of Optax's is:

    >>> optimizer = optax_strat.aardvark(3e-4)
    >>> state = optimizer.init(params)
    >>> gradients = jax.tree.map(jnp.sin, params)
    >>> updates, state = optimizer.update(gradients, state, params)
    >>> params = optax.apply_updates(params, updates)

    Afterwards its state tells what happened:

    >>> optax_strat.raise_if_stuck(state)
    SkipCounts(total=0, consecutive=0)
    >>> norms = optax_strat.norms_by_layer_type(updates)
    >>> {layer_type: f'{norm:.1e}' for layer_type, norm in norms.items()}
    {'embedding': '2.6e-03', 'mlp': '2.2e-03', 'head': '4.8e-03', 'norm': '8.5e-04'}
"""

from optax_strat._aardvark import ScaleByAardvarkState, aardvark, scale_by_aardvark
from optax_strat._clipping import ClipToParameters, ClipToReference, clip_by_layer_norm
from optax_strat._decay import decays
from optax_strat._depth import scale_by_depth
from optax_strat._describe import Description, Row, describe
from optax_strat._groups import Group
from optax_strat._guard import (
    RepairNonfiniteState,
    SkipNonfiniteState,
    repair_nonfinite,
    skip_nonfinite,
)
from optax_strat._layer_types import DEFAULT_RULES, LayerType
from optax_strat._layers import Layers, layer_types
from optax_strat._loss_scale import DynamicLossScaleState, dynamic_loss_scale
from optax_strat._matrices import DEFAULT_MATRICES, muon_dimensions
from optax_strat._muon import scale_by_muon
from optax_strat._per_layer import per_layer
from optax_strat._readings import StratoptReadings
from optax_strat._scaling import (
    MULTIPLIERS,
    Adaptive,
    AdaptLayerTypesState,
    ScaleByLayerTypeState,
    scale_by_layer_type,
)
from optax_strat._schedules import ScaleByLearningRateState, learning_rate_of, warmup_cosine
from optax_strat._second_moments import FactoredMoments
from optax_strat._stacks import DEFAULT_STACKED
from optax_strat._states import (
    NonfiniteError,
    SkipCounts,
    find_states,
    loss_scale,
    raise_if_stuck,
    skip_counts,
)
from optax_strat._statistics import RecordStatisticsState, read_statistics, record_statistics
from optax_strat._strata import norms_by_layer_type, strata_names
from optax_strat._stratify import stratify
from optax_strat._stratopt import ScaleByStratoptState, scale_by_stratopt, stratopt
from optax_strat._width import scale_by_width

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_MATRICES",
    "DEFAULT_RULES",
    "DEFAULT_STACKED",
    "MULTIPLIERS",
    "AdaptLayerTypesState",
    "Adaptive",
    "ClipToParameters",
    "ClipToReference",
    "Description",
    "DynamicLossScaleState",
    "FactoredMoments",
    "Group",
    "LayerType",
    "Layers",
    "NonfiniteError",
    "RecordStatisticsState",
    "RepairNonfiniteState",
    "Row",
    "ScaleByAardvarkState",
    "ScaleByLayerTypeState",
    "ScaleByLearningRateState",
    "ScaleByStratoptState",
    "SkipCounts",
    "SkipNonfiniteState",
    "StratoptReadings",
    "__version__",
    "aardvark",
    "clip_by_layer_norm",
    "decays",
    "describe",
    "dynamic_loss_scale",
    "find_states",
    "layer_types",
    "learning_rate_of",
    "loss_scale",
    "muon_dimensions",
    "norms_by_layer_type",
    "per_layer",
    "raise_if_stuck",
    "read_statistics",
    "record_statistics",
    "repair_nonfinite",
    "scale_by_aardvark",
    "scale_by_depth",
    "scale_by_layer_type",
    "scale_by_muon",
    "scale_by_stratopt",
    "scale_by_width",
    "skip_counts",
    "skip_nonfinite",
    "strata_names",
    "stratify",
    "stratopt",
    "warmup_cosine",
]
