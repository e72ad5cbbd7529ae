"""Stratified optimization for Optax."""

from optax_strat._aardvark import ScaleByAardvarkState, aardvark, scale_by_aardvark
from optax_strat._adaptive import AdaptLayerTypesState
from optax_strat._clipping import ClipToParameters, ClipToReference, clip_by_layer_norm
from optax_strat._decay import decays
from optax_strat._describe import Description, Row, describe
from optax_strat._guard import (
    NonfiniteError,
    SkipCounts,
    SkipNonfiniteState,
    raise_if_stuck,
    skip_counts,
    skip_nonfinite,
)
from optax_strat._layer_types import DEFAULT_RULES, LayerType, layer_types
from optax_strat._layout import DEFAULT_STACKED
from optax_strat._multipliers import MULTIPLIERS
from optax_strat._norms import norms_by_layer_type
from optax_strat._per_layer import per_layer
from optax_strat._repair import RepairNonfiniteState, repair_nonfinite
from optax_strat._scaling import scale_by_layer_type, stratify
from optax_strat._schedules import warmup_cosine
from optax_strat._states import find_states
from optax_strat._statistics import RecordStatisticsState, read_statistics, record_statistics
from optax_strat._strata import strata_names
from optax_strat._stratopt import ScaleByStratoptState, scale_by_stratopt, stratopt
from optax_strat._version import __version__

__all__ = [
    "DEFAULT_RULES",
    "DEFAULT_STACKED",
    "MULTIPLIERS",
    "AdaptLayerTypesState",
    "ClipToParameters",
    "ClipToReference",
    "Description",
    "LayerType",
    "NonfiniteError",
    "RecordStatisticsState",
    "RepairNonfiniteState",
    "Row",
    "ScaleByAardvarkState",
    "ScaleByStratoptState",
    "SkipCounts",
    "SkipNonfiniteState",
    "__version__",
    "aardvark",
    "clip_by_layer_norm",
    "decays",
    "describe",
    "find_states",
    "layer_types",
    "norms_by_layer_type",
    "per_layer",
    "raise_if_stuck",
    "read_statistics",
    "record_statistics",
    "repair_nonfinite",
    "scale_by_aardvark",
    "scale_by_layer_type",
    "scale_by_stratopt",
    "skip_counts",
    "skip_nonfinite",
    "strata_names",
    "stratify",
    "stratopt",
    "warmup_cosine",
]
