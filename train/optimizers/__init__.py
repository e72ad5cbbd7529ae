"""One optimizer a file: its settings, how it is built, and what of it is tuned.

`OPTIMIZERS` lists them; the command line, the reader of configurations and the nano comparison
are derived from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Union

from tyro.conf import subcommand

from train.optimizers.aardvark import Aardvark
from train.optimizers.adafactor import Adafactor
from train.optimizers.adamw import AdamW
from train.optimizers.ademamix import AdEMAMix
from train.optimizers.base import OptimizerConfig
from train.optimizers.lamb import LAMB
from train.optimizers.lion import Lion
from train.optimizers.muon import Muon
from train.optimizers.stratopt import StratOpt

__all__ = [
    "LAMB",
    "OPTIMIZERS",
    "Aardvark",
    "AdEMAMix",
    "Adafactor",
    "AdamW",
    "AnyOptimizer",
    "Lion",
    "Muon",
    "OptimizerConfig",
    "StratOpt",
]

OPTIMIZERS: tuple[type[OptimizerConfig], ...] = (
    AdamW,  # The baseline of a comparison.
    AdEMAMix,
    Lion,
    LAMB,
    Adafactor,
    Muon,
    StratOpt,
    Aardvark,
)
"""In the order in which a comparison runs them."""

if TYPE_CHECKING:
    AnyOptimizer = OptimizerConfig
else:  # What tyro makes subcommands of.
    AnyOptimizer = Union[  # noqa: UP007
        tuple(Annotated[kind, subcommand(kind.__name__.lower())] for kind in OPTIMIZERS)
    ]
