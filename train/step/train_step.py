"""The train step and the evaluation step: pure functions of pytrees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import PartitionSpec

import optax_strat
from models.sharding import automatic
from train.step.accumulation import mean_loss_and_gradient
from train.step.optimizer import Optimizer, specs
from train.step.state import TrainState
from train.tasks.task import Batch, Params, Task

Metrics = dict[str, Any]


def make_train_step(
    task: Task, optimizer: Optimizer, *, accumulate: int = 1
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """One step of optimization: `(state, batch) -> (state, metrics)`, metrics on the device.

    Args:
      task: Whose loss is minimized.
      optimizer: What turns gradients into updates.
      accumulate: Micro-batches that the batch is computed in, see `train.step.accumulation`.
    """

    def loss_and_gradient(params: Params, batch: Batch) -> tuple[Array, Params]:
        return mean_loss_and_gradient(task.loss, params, batch, accumulate)

    def norms(tree: Params) -> dict[str, Array]:
        return optax_strat.norms_by_layer_type(tree, layers=task.layers)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        gradient_like_params = (PartitionSpec(), specs(state.params))
        loss, grads = automatic(loss_and_gradient, gradient_like_params)(state.params, batch)
        updates, opt_state = optimizer.transformation.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        skipped_before, _ = _skips(state.opt_state)
        skipped, consecutive_skips = _skips(opt_state)
        metrics = {
            "loss": loss,
            # Of the update that was made, or would have been; a skipped step has used up none.
            "learning_rate": optimizer.schedule(state.step - skipped_before),
            "grad_norm": optax.tree.norm(grads),
            "grad_norms": norms(grads),
            "update_norms": norms(updates),
            "param_norms": norms(params),
            "skipped": skipped,
            "consecutive_skips": consecutive_skips,
        }
        return TrainState(state.step + 1, params, opt_state), metrics

    return train_step


def make_eval_step(task: Task) -> Callable[[Params, Batch], tuple[Array, Array]]:
    """`(params, batch) -> (sum of the losses, sum of the weights)`."""

    def eval_step(params: Params, batch: Batch) -> tuple[Array, Array]:
        return automatic(task.loss, (PartitionSpec(), PartitionSpec()))(params, batch)

    return eval_step


def _skips(opt_state: Any) -> tuple[Array, Array]:
    """Steps skipped by the guard in all and in a row; zeros where an optimizer has no guard."""
    guards = optax_strat.find_states(opt_state, optax_strat.SkipNonfiniteState)
    none = jnp.zeros((), jnp.int32)
    total = sum((guard.total for guard in guards), none)
    return total, sum((guard.consecutive for guard in guards), none)
