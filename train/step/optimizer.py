"""The optimizer of a run: its own transformation, a guard, and shardings that the compiler infers.

With `--mesh.axes explicit` every sharding is part of a type, and JAX asks for each that it finds
ambiguous. Loss and gradient are left to the compiler in one piece, and so are the updates of
optimizers whose state has rows and columns; what comes out of either is checked by types.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax

import optax_strat
from models.sharding import automatic
from train.config.run import ScheduleConfig
from train.optimizers.base import OptimizerConfig


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


def specs(tree: Any) -> Any:
    """The PartitionSpecs that arrays under trace have as part of their types."""
    return jax.tree.map(lambda leaf: jax.typeof(leaf).sharding.spec, tree)


def inferred_update(
    transformation: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Leaves the shardings inside an optimizer's update to the compiler, whatever the axes.

    For optimizers with products, or rows and columns of state, for which explicit axes would ask
    how to shard each; updates and state leave the island as gradients and state came.

    Args:
      transformation: The optimizer.
    """
    inner = optax.with_extra_args_support(transformation)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        island = automatic(
            lambda *arguments: inner.update(*arguments, **extra), specs((updates, state))
        )
        return island(updates, state, params)

    return optax.GradientTransformationExtraArgs(inner.init, update)
