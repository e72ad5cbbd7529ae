"""Schedules over a run's steps: the learning rate, and AdEMAMix's slow decay."""

from __future__ import annotations

import math

import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from train.config.run import ScheduleConfig


def learning_rate_schedule(peak: float, config: ScheduleConfig, steps: int) -> optax.Schedule:
    """Linear warm-up to `peak`, then the decay that `config` names, ending at step `steps`.

    Args:
      peak: Highest rate, reached in the last step of the warm-up.
      config: Lengths and shape.
      steps: Steps of the whole run.

    Returns:
      A function of the updates made so far. Its first value is already above zero: update `k` of
      the warm-up runs at `(k + 1) / warmup_steps` of the peak.

    Example:
      >>> rate = learning_rate_schedule(1.0, ScheduleConfig(warmup_steps=4), steps=100)
      >>> [round(float(rate(step)), 2) for step in (0, 3, 52, 100)]
      [0.25, 1.0, 0.55, 0.1]
    """
    warmup = optax.linear_schedule(
        peak / max(config.warmup_steps, 1), peak, max(config.warmup_steps - 1, 1)
    )
    decay_steps = max(steps - config.warmup_steps, 1)
    match config.decay:
        case "cosine":
            decay = optax.cosine_decay_schedule(peak, decay_steps, config.final_fraction)
        case "linear":
            decay = optax.linear_schedule(peak, peak * config.final_fraction, decay_steps)
        case "constant":
            decay = optax.constant_schedule(peak)
    return optax.join_schedules([warmup, decay], [config.warmup_steps])


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
