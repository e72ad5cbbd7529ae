"""The optimizer of a run: its own transformation, and what is equal for all of them."""

from __future__ import annotations

from typing import NamedTuple

import optax

import optax_strat
from train.config.run import ScheduleConfig
from train.optimizers.base import OptimizerConfig
from train.step.auto_sharding import inferred_update


class Optimizer(NamedTuple):
    """What the train step and the records need to know of an optimizer."""

    transformation: optax.GradientTransformationExtraArgs
    schedule: optax.Schedule
    """Learning rate at a step; a schedule's step is the number of updates made before it."""


def build_optimizer(config: OptimizerConfig, schedule: ScheduleConfig, steps: int) -> Optimizer:
    """Builds the transformation that a run of `steps` steps uses.

    Args:
      config: Which optimizer, with its settings.
      schedule: Warm-up and decay of the learning rate.
      steps: Length of the run, at which the decay ends.

    Returns:
      The transformation, guarded against non-finite gradients, and its schedule.
    """
    rate = schedule.build(config.learning_rate, steps)
    transformation = config.build(rate, steps)
    if config.infers_sharding:
        transformation = inferred_update(transformation)
    if not config.has_guard:
        transformation = optax_strat.skip_nonfinite(transformation)
    return Optimizer(optax.with_extra_args_support(transformation), rate)
