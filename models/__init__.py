"""A decoder-only transformer in Flax NNX, used as pure functions of a dict of parameters."""

from models.config import TransformerConfig
from models.counting import FLOPS_FORMULA, ParameterCount, flops_per_token, parameter_count
from models.functional import Params, apply, features, head_params, init, logical_axes, unembed
from models.presets import PRESETS
from models.transformer import Transformer

__all__ = [
    "FLOPS_FORMULA",
    "PRESETS",
    "ParameterCount",
    "Params",
    "Transformer",
    "TransformerConfig",
    "apply",
    "features",
    "flops_per_token",
    "head_params",
    "init",
    "logical_axes",
    "parameter_count",
    "unembed",
]
