"""Each optimizer's search space: which settings are tuned, and between which values.

Every method has the same number of dimensions, three, so that a budget of N trials means the same
for all: the peak learning rate, the weight decay, and how long the method averages (b2 or its
like; Muon's momentum, the exponent of Adafactor's decay). All other settings keep the value of the
configuration that is tuned.

Every range of rates spans three decades and holds 3e-4, the papers' rate. Where that leaves a
choice, its middle is the rate that was best on a coarse grid, which the comments call the nano
grid: half-decade steps on the nano comparison, one seed. Every range of decays spans two decades
around the configuration's default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from train.optimizers.dimensions import Dimension, LogComplement, LogUniform, Uniform
from train.optimizers.settings import (
    LAMB,
    Aardvark,
    Adafactor,
    AdamW,
    AdEMAMix,
    Lion,
    Muon,
    OptimizerConfig,
    StratOpt,
    key,
)

PAPERS_RATE = 3e-4
"""Of every optimizer in both papers."""


@dataclass(frozen=True)
class SearchSpace:
    """The settings of one optimizer that are tuned.

    Raises:
      ValueError: If a dimension is no field of the configuration, or has a range without the
        configuration's value, or if the rate is not tuned or its range lacks the papers' 3e-4.
    """

    optimizer: OptimizerConfig
    """The default of each tuned field, and every trial's value of the others."""
    dimensions: tuple[Dimension, ...]

    def __post_init__(self) -> None:
        name = key(self.optimizer)
        known = {field.name for field in dataclasses.fields(self.optimizer)}
        tuned = [dimension.field for dimension in self.dimensions]
        for field in tuned:
            if field not in known or tuned.count(field) > 1:
                raise ValueError(
                    f"the search space of {name} has a dimension {field!r}: each must be another "
                    f"of {', '.join(sorted(known))}."
                )
        if "learning_rate" not in tuned:
            raise ValueError(f"the search space of {name} lacks learning_rate: it is always tuned.")
        for dimension in self.dimensions:
            for optimizer in (self.optimizer, self.default):
                value = getattr(optimizer, dimension.field)
                if not dimension.holds(value):
                    raise ValueError(
                        f"{dimension} of {name} does not hold {value}, which is its default or "
                        "the papers' rate: widen it."
                    )

    @property
    def default(self) -> OptimizerConfig:
        """The first trial: the defaults at the papers' rate."""
        return dataclasses.replace(self.optimizer, learning_rate=PAPERS_RATE)

    def at(self, point: tuple[float, ...]) -> OptimizerConfig:
        """The configuration at a point of the unit cube, one coordinate for each dimension."""
        values: dict[str, Any] = {
            dimension.field: dimension.at(unit)
            for dimension, unit in zip(self.dimensions, point, strict=True)
        }
        return dataclasses.replace(self.optimizer, **values)


def search_space(optimizer: OptimizerConfig) -> SearchSpace:
    """The declared space of an optimizer, with the settings of `optimizer` that are not tuned.

    Example:
      >>> space = search_space(AdamW(learning_rate=1e-2, clip=None))
      >>> space.default.learning_rate, space.default.clip
      (0.0003, None)
    """
    dimensions = SPACES[type(optimizer)]
    defaults = {
        dimension.field: getattr(type(optimizer), dimension.field) for dimension in dimensions
    }
    return SearchSpace(dataclasses.replace(optimizer, **defaults), dimensions)


# Of the second moment, and of Lion's momentum: 0.98 is where tuned AdamW sits (Wen et al., 2025),
# 0.999 is Adam's own default.
_B2 = LogComplement("b2", 0.9, 0.9995)
_DECAY = LogUniform("weight_decay", 0.01, 1.0)

SPACES: Mapping[type[OptimizerConfig], tuple[Dimension, ...]] = MappingProxyType(
    {
        # Nano grid 3e-3; 8e-3 where tuned at 134M (Wen et al., 2025).
        AdamW: (LogUniform("learning_rate", 1e-4, 1e-1), _DECAY, _B2),
        # Nano grid 1e-3, AdamW's neighbour: one slow momentum more, no other scale.
        AdEMAMix: (LogUniform("learning_rate", 3e-5, 3e-2), _DECAY, _B2),
        # Nano grid 3e-3; 1e-3 to 2e-3 with decay 0.7 at 134M (Wen et al., 2025).
        Lion: (
            LogUniform("learning_rate", 1e-4, 1e-1),
            LogUniform("weight_decay", 0.07, 7.0),
            _B2,
        ),
        # Nano grid 3e-2, without a usable loss at 3e-1: as high as 3e-4 allows.
        LAMB: (LogUniform("learning_rate", 2.5e-4, 2.5e-1), _DECAY, _B2),
        # Nano grid 1e-1, relative to each tensor's scale: as high as 3e-4 allows. The paper takes
        # 1 - t^-c for b2 with c = 0.8 (section 7.2); c = 1 averages over all steps alike.
        Adafactor: (
            LogUniform("learning_rate", 2.5e-4, 2.5e-1),
            _DECAY,
            Uniform("decay_rate", 0.5, 1.0),
        ),
        # Its updates have AdamW's size (Liu et al., 2025), and so have its rates.
        Muon: (
            LogUniform("learning_rate", 1e-4, 1e-1),
            _DECAY,
            LogComplement("beta", 0.8, 0.998),
        ),
        # Nano grid 1e-3; alpha multiplies the rate by up to 10 where gradients are large.
        StratOpt: (LogUniform("learning_rate", 3e-5, 3e-2), _DECAY, _B2),
        # Nano grid 1e-3; its multipliers raise the rate by 1.34 in the mean.
        Aardvark: (LogUniform("learning_rate", 3e-5, 3e-2), _DECAY, _B2),
    }
)
