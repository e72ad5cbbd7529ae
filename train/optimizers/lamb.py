"""LAMB: Adam's direction, rescaled per layer to the parameters' norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import optax

import optax_strat
from train.optimizers.base import OptimizerConfig, clipped
from train.optimizers.dimensions import AVERAGING, DECAY, LogUniform


@dataclass(frozen=True)
class LAMB(OptimizerConfig):
    """LAMB (You et al., 2020): Adam's direction, rescaled per layer to the parameters' norm."""

    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    weight_decay: float = 0.1
    """The paper uses 0.01 for BERT; 0.1 here as for every other method of the comparison."""
    clip: float | None = 1.0

    # Best on the coarse grid: 3e-2, without a usable loss at 3e-1: as high as 3e-4 allows.
    search: ClassVar = (LogUniform("learning_rate", 2.5e-4, 2.5e-1), DECAY, AVERAGING)
    nano_settings: ClassVar = {"learning_rate": 0.02525, "b2": 0.98669, "weight_decay": 0.09327}

    def build(self, learning_rate: optax.Schedule, steps: int) -> optax.GradientTransformation:
        """`optax.lamb`, its trust ratio taken per layer and not per stack of layers."""
        lamb = optax.chain(
            optax.scale_by_adam(self.b1, self.b2, self.eps),
            optax.add_decayed_weights(self.weight_decay, optax_strat.decays),
            optax_strat.per_layer(optax.scale_by_trust_ratio()),
            optax.scale_by_learning_rate(learning_rate),
        )
        return clipped(self.clip, lamb)
