"""AdamW, the baseline of every comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import optax

import optax_strat
from train.optimizers.base import OptimizerConfig, clipped
from train.optimizers.dimensions import AVERAGING, DECAY, LogUniform


@dataclass(frozen=True)
class AdamW(OptimizerConfig):
    """AdamW (Loshchilov and Hutter, 2019) with the betas of current language-model practice."""

    learning_rate: float = 3e-4
    """Peak rate; both papers use 3e-4."""
    b1: float = 0.9
    b2: float = 0.98
    """Where AdamW tuned at 130M sits (Wen et al., 2025, "Fantastic pretraining optimizers").
    Adam's own default is 0.999."""
    eps: float = 1e-8
    weight_decay: float = 0.1
    """Aardvark paper, section 3.1."""
    clip: float | None = 1.0
    """Global gradient norm above which the gradient is scaled down."""

    # Best on the coarse grid: 3e-3; 8e-3 where tuned at 134M (Wen et al., 2025).
    search: ClassVar = (LogUniform("learning_rate", 1e-4, 1e-1), DECAY, AVERAGING)
    nano_settings: ClassVar = {"learning_rate": 0.003323, "b2": 0.998041, "weight_decay": 0.01485}

    def build(self, learning_rate: optax.Schedule, steps: int) -> optax.GradientTransformation:
        """Optax's AdamW behind the clip."""
        adamw = optax.adamw(
            learning_rate,
            self.b1,
            self.b2,
            self.eps,
            weight_decay=self.weight_decay,
            mask=optax_strat.decays,
        )
        return clipped(self.clip, adamw)
