"""The train step and the evaluation step: pure functions of pytrees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import PartitionSpec

import models
import optax_strat
from models.sharding import automatic
from train.data import Batch
from train.optimizers.build import Optimizer
from train.step.accumulation import mean_loss_and_gradient
from train.step.auto_sharding import specs
from train.step.state import TrainState
from train.tasks.loss import batch_loss

Metrics = dict[str, Any]


def make_train_step(
    config: models.TransformerConfig,
    optimizer: Optimizer,
    *,
    accumulate: int = 1,
    loss_chunk: int | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """One step of optimization: `(state, batch) -> (state, metrics)`, metrics on the device.

    Args:
      config: The model.
      optimizer: What turns gradients into updates.
      accumulate: Micro-batches that the batch is computed in, see `train.step.accumulation`.
      loss_chunk: As for `train.tasks.loss.batch_loss`.
    """

    def summed_loss(params: Any, batch: Batch) -> tuple[Array, Array]:
        return batch_loss(config, params, batch, loss_chunk)

    def loss_and_gradient(params: Any, batch: Batch) -> tuple[Array, Any]:
        return mean_loss_and_gradient(summed_loss, params, batch, accumulate)

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
            "grad_norms": optax_strat.norms_by_layer_type(grads),
            "update_norms": optax_strat.norms_by_layer_type(updates),
            "param_norms": optax_strat.norms_by_layer_type(params),
            "skipped": skipped,
            "consecutive_skips": consecutive_skips,
        }
        return TrainState(state.step + 1, params, opt_state), metrics

    return train_step


def make_eval_step(
    config: models.TransformerConfig, *, loss_chunk: int | None = None
) -> Callable[[Any, Batch], tuple[Array, Array]]:
    """Sum of the losses of a batch and its weight: `(params, batch) -> (nats, tokens)`."""

    def summed_loss(params: Any, batch: Batch) -> tuple[Array, Array]:
        return batch_loss(config, params, batch, loss_chunk)

    def eval_step(params: Any, batch: Batch) -> tuple[Array, Array]:
        return automatic(summed_loss, (PartitionSpec(), PartitionSpec()))(params, batch)

    return eval_step


def _skips(opt_state: Any) -> tuple[Array, Array]:
    """Steps skipped by the guard in all and in a row; zeros where an optimizer has no guard."""
    guards = optax_strat.find_states(opt_state, optax_strat.SkipNonfiniteState)
    none = jnp.zeros((), jnp.int32)
    total = sum((guard.total for guard in guards), none)
    return total, sum((guard.consecutive for guard in guards), none)
