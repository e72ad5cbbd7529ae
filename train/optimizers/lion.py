"""Lion: the sign of an interpolated momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import optax

import optax_strat
from train.optimizers.base import OptimizerConfig, clipped
from train.optimizers.dimensions import AVERAGING, LogUniform


@dataclass(frozen=True)
class Lion(OptimizerConfig):
    """Lion (Chen et al., 2023): the sign of an interpolated momentum."""

    learning_rate: float = 1e-4
    """The paper advises 3 to 10 times less than AdamW's (section 5)."""
    b1: float = 0.9
    b2: float = 0.99
    weight_decay: float = 0.7
    """The paper advises 3 to 10 times AdamW's, so that rate times decay stays."""
    clip: float | None = 1.0

    # Best on the coarse grid: 3e-3; 1e-3 to 2e-3 with decay 0.7 at 134M (Wen et al., 2025).
    search: ClassVar = (
        LogUniform("learning_rate", 1e-4, 1e-1),
        LogUniform("weight_decay", 0.07, 7.0),
        AVERAGING,
    )
    nano_settings: ClassVar = {"learning_rate": 0.005398, "b2": 0.93597, "weight_decay": 3.368}

    def build(self, learning_rate: optax.Schedule, steps: int) -> optax.GradientTransformation:
        """Optax's Lion behind the clip."""
        lion = optax.lion(
            learning_rate,
            self.b1,
            self.b2,
            weight_decay=self.weight_decay,
            mask=optax_strat.decays,
        )
        return clipped(self.clip, lion)
