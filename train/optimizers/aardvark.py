"""Aardvark: AdamW with a learning-rate multiplier per layer type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import optax

import optax_strat
from train.optimizers.base import OptimizerConfig
from train.optimizers.dimensions import AVERAGING, DECAY, LogUniform


@dataclass(frozen=True)
class Aardvark(OptimizerConfig):
    """Aardvark: AdamW with a learning-rate multiplier per layer type and guarded gradients."""

    learning_rate: float = 3e-4
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    embedding: float = 1.0
    """Multipliers of equation 1."""
    attention: float = 1.5
    mlp: float = 1.2
    head: float = 1.8
    scaling: Literal["fixed", "adaptive", "normalized"] = "fixed"
    clip: float | None = 1.0
    clip_mode: Literal["global_norm", "per_tensor", "elementwise"] = "global_norm"
    nonfinite: Literal["skip", "nan_to_num"] | None = "skip"
    weight_decay: float = 0.1
    decay_rate: Literal["group", "base"] = "group"
    """Whether decay goes with the multiplied rate or with the rate itself."""
    mu_dtype: Literal["float32", "bfloat16"] | None = None
    """Dtype of the first moment; None is the parameters' own."""
    second_moment: Literal["float32", "bfloat16", "factored"] | None = None
    """How the second moment is kept: in float32, which None means too; in bfloat16, rounded
    stochastically; or factored, as its row and column means alone."""

    # Best on the coarse grid: 1e-3; its multipliers raise the rate by 1.34 in the mean.
    search: ClassVar = (LogUniform("learning_rate", 3e-5, 3e-2), DECAY, AVERAGING)
    nano_settings: ClassVar = {"learning_rate": 0.01069, "b2": 0.98537, "weight_decay": 0.729}
    has_guard: ClassVar = True

    @property
    def infers_sharding(self) -> bool:
        """Where the second moment is factored."""
        return self.second_moment == "factored"

    def build(self, learning_rate: optax.Schedule, steps: int) -> optax.GradientTransformation:
        """`optax_strat.aardvark`; with adaptive scaling, which measures its own multipliers."""
        multipliers = {
            "embedding": self.embedding,
            "attention": self.attention,
            "mlp": self.mlp,
            "head": self.head,
        }
        return optax_strat.aardvark(
            learning_rate,
            self.b1,
            self.b2,
            self.eps,
            multipliers=None if self.scaling == "adaptive" else multipliers,
            scaling=self.scaling,
            clip=self.clip,
            clip_mode=self.clip_mode,
            nonfinite=self.nonfinite,
            weight_decay=self.weight_decay,
            decay_rate=self.decay_rate,
            mu_dtype=self.mu_dtype,
            second_moment=self.second_moment,
        )
