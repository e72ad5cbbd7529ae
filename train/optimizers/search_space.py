"""The space that is searched for the settings of one optimizer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from train.optimizers.base import OptimizerConfig
from train.optimizers.dimensions import Dimension

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
        name = self.optimizer.key
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
      >>> from train.optimizers import AdamW
      >>> space = search_space(AdamW(learning_rate=1e-2, clip=None))
      >>> space.default.learning_rate, space.default.clip
      (0.0003, None)
    """
    dimensions = optimizer.search
    defaults = {
        dimension.field: getattr(type(optimizer), dimension.field) for dimension in dimensions
    }
    return SearchSpace(dataclasses.replace(optimizer, **defaults), dimensions)
