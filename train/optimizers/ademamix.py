"""AdEMAMix: AdamW plus a second, slow momentum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike
from optax import contrib

import optax_strat
from train.optimizers.base import OptimizerConfig, clipped
from train.optimizers.dimensions import AVERAGING, DECAY, LogUniform


@dataclass(frozen=True)
class AdEMAMix(OptimizerConfig):
    """AdEMAMix (Pagliardini et al., 2024): AdamW plus a second, slow momentum."""

    learning_rate: float = 3e-4
    b1: float = 0.9
    b2: float = 0.999
    b3: float = 0.999
    """Decay of the slow momentum; the paper's 0.9999 is meant for 256,000 steps and more."""
    alpha: float = 8.0
    """Weight of the slow momentum; it and `b3` warm up over the whole run (paper, section 3)."""
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float | None = 1.0

    # Best on the coarse grid: 1e-3, AdamW's neighbour: one slow momentum more, no other scale.
    search: ClassVar = (LogUniform("learning_rate", 3e-5, 3e-2), DECAY, AVERAGING)
    nano_settings: ClassVar = {"learning_rate": 0.0009969, "b2": 0.998041, "weight_decay": 0.01485}

    def build(self, learning_rate: optax.Schedule, steps: int) -> optax.GradientTransformation:
        """Optax's AdEMAMix with both warm-ups of the paper, behind the clip."""
        ademamix = contrib.ademamix(
            learning_rate,
            self.b1,
            self.b2,
            b3=slow_decay_warmup(self.b1, self.b3, steps),
            alpha=optax.linear_schedule(0.0, self.alpha, steps),
            eps=self.eps,
            weight_decay=self.weight_decay,
            mask=optax_strat.decays,
        )
        return clipped(self.clip, ademamix)


def slow_decay_warmup(start: float, end: float, steps: int) -> optax.Schedule:
    r"""AdEMAMix's warm-up of the slow momentum's decay: its half-life grows linearly.

    .. math::
      b_3(t) = \exp\left(\frac{\ln b_s \ln b_e}{(1 - t/T)\ln b_e + (t/T) \ln b_s}\right)

    Args:
      start: :math:`b_s`, the decay at step 0 (the paper takes b1).
      end: :math:`b_e`, the decay from step `steps` on.
      steps: :math:`T`.

    References:
      Pagliardini, Ablin and Grangier, `The AdEMAMix Optimizer
      <https://arxiv.org/abs/2409.03137>`_, 2024, section 3.

    Example:
      >>> decay = slow_decay_warmup(0.9, 0.999, steps=100)
      >>> [round(float(decay(step)), 4) for step in (0, 50, 100, 200)]
      [0.9, 0.998, 0.999, 0.999]
    """
    log_start, log_end = math.log(start), math.log(end)

    def decay(count: ArrayLike) -> Array:
        progress = jnp.minimum(count / steps, 1.0)
        return jnp.exp(log_start * log_end / ((1 - progress) * log_end + progress * log_start))

    return decay
