"""What a study is: one comparison, and how far it goes beyond it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from models import TransformerConfig
from train.config import named
from train.config.run import Comparison
from train.data import DataConfig


@dataclass(frozen=True, kw_only=True)
class Study:
    """Tunes every optimizer, then compares them at the settings found.

    Raises:
      ValueError: If a budget of steps is below 1 or given twice.
    """

    comparison: Annotated[Comparison, tyro.conf.Suppress] = field(default_factory=named.compare)
    """The experiment, and who takes part."""
    trials: int = 16
    """Of the tuning, for each optimizer."""
    budgets: tuple[int, ...] = (100, 200, 400, 800)
    """Steps of the runs that show how the loss falls with the tokens; three or more can be fitted.
    The settings are those tuned at the comparison's own steps."""
    rate_seeds: int = 2
    """Seeds of the runs at other learning rates: there are many of them."""
    larger: Annotated[TransformerConfig | None, tyro.conf.Suppress] = named.MICRO
    """A second model, at the settings tuned for the first."""
    second_text: DataConfig | None = None
    """A second text, likewise, such as `second-text:data-config --second-text.source
    parquet:train.parquet --second-text.validation-source parquet:val.parquet`."""

    def __post_init__(self) -> None:
        if min(self.budgets, default=1) < 1 or len(set(self.budgets)) < len(self.budgets):
            raise ValueError(
                f"budgets={self.budgets} are not allowed: each must be at least 1, and another."
            )
