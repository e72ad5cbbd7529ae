"""Muon: orthogonalized momentum for hidden matrices, AdamW for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import optax

import optax_strat
from train.optimizers.base import OptimizerConfig
from train.optimizers.dimensions import DECAY, LogComplement, LogUniform


@dataclass(frozen=True)
class Muon(OptimizerConfig):
    """Muon (Jordan et al., 2024): orthogonalized momentum for hidden matrices, else AdamW."""

    strata: tuple[Literal["attention", "mlp"], ...] = ("attention", "mlp")
    """The layer types whose matrices are orthogonalized; all others get AdamW."""
    learning_rate: float = 3e-4
    """Shared with the AdamW part, as updates are scaled to AdamW's root mean square of 0.2."""
    beta: float = 0.95
    ns_steps: int = 5
    adam_b1: float = 0.9
    adam_b2: float = 0.95
    adam_nesterov: bool = True
    """Whether AdamW looks ahead as Muon does. In Optax's Muon it does, in Jordan's it does not."""
    eps: float = 1e-8
    weight_decay: float = 0.1
    consistent_rms: float | None = 0.2
    """Liu et al. (2025), section 2.2; None leaves the updates orthogonal."""
    clip: float | None = 1.0

    # Its updates have AdamW's size (Liu et al., 2025), and so have its rates.
    search: ClassVar = (
        LogUniform("learning_rate", 1e-4, 1e-1),
        DECAY,
        LogComplement("beta", 0.8, 0.998),
    )
    nano_settings: ClassVar = {
        "learning_rate": 0.0438,
        "beta": 0.90302,
        "adam_b2": 0.98,
        "weight_decay": 0.03467,
    }

    def build(self, learning_rate: optax.Schedule, steps: int) -> optax.GradientTransformation:
        """Muon and Adam as two groups with one clip, decay and schedule."""
        muon = optax_strat.scale_by_muon(
            self.beta, self.ns_steps, self.eps, rms=self.consistent_rms
        )
        adam = optax.scale_by_adam(
            self.adam_b1, self.adam_b2, self.eps, nesterov=self.adam_nesterov
        )
        others = tuple(kind for kind in optax_strat.LayerType if kind not in self.strata)
        return optax_strat.stratify(
            ({self.strata: muon} if self.strata else {}) | {others: adam},
            learning_rate=learning_rate,
            clip=self.clip,
            weight_decay=self.weight_decay,
        )
