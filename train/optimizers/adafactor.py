"""Adafactor: a factored second moment, updates clipped by norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import optax

import optax_strat
from train.optimizers.base import OptimizerConfig
from train.optimizers.dimensions import DECAY, LogUniform, Uniform


@dataclass(frozen=True)
class Adafactor(OptimizerConfig):
    """Adafactor (Shazeer and Stern, 2018): a factored second moment, updates clipped by norm."""

    learning_rate: float = 1e-2
    """Relative to each tensor's own scale (paper, section 8)."""
    decay_rate: float = 0.8
    clipping_threshold: float = 1.0
    """On the update's root mean square (paper, section 6); replaces clipping of the gradient."""
    momentum: float | None = None
    min_dim_size_to_factor: int = 128
    weight_decay: float = 0.1

    # Best on the coarse grid: 1e-1, relative to each tensor's scale: as high as 3e-4 allows. The
    # paper takes 1 - t^-c for b2 with c = 0.8 (section 7.2); c = 1 averages over all steps alike.
    search: ClassVar = (
        LogUniform("learning_rate", 2.5e-4, 2.5e-1),
        DECAY,
        Uniform("decay_rate", 0.5, 1.0),
    )
    nano_settings: ClassVar = {
        "learning_rate": 0.1095,
        "decay_rate": 0.5786,
        "weight_decay": 0.03467,
        "min_dim_size_to_factor": 32,
    }

    @property
    def infers_sharding(self) -> bool:
        """Yes: the second moment is factored."""
        return True

    def build(self, learning_rate: optax.Schedule, steps: int) -> optax.GradientTransformation:
        """Optax's Adafactor layer by layer, with decoupled decay."""
        adafactor = optax.adafactor(
            learning_rate,
            self.min_dim_size_to_factor,
            self.decay_rate,
            clipping_threshold=self.clipping_threshold,
            momentum=self.momentum,
        )
        decay = optax.add_decayed_weights(
            lambda count: -self.weight_decay * learning_rate(count), optax_strat.decays
        )
        return optax.chain(optax_strat.per_layer(adafactor), decay)
