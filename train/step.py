"""The train step and the evaluation step: pure functions of pytrees.

B batch, T sequence, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

import models
import optax_strat
from train.data import Batch
from train.loss import cross_entropy
from train.optimizers import Optimizer
from train.state import TrainState

Metrics = dict[str, Any]


def make_train_step(
    config: models.TransformerConfig, optimizer: Optimizer
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """One step of optimization: `(state, batch) -> (state, metrics)`, metrics on the device."""

    def mean_loss(params: Any, batch: Batch) -> Array:
        logits_BTV = models.apply(config, params, batch.inputs_BT)
        total, weight = cross_entropy(logits_BTV, batch.targets_BT, batch.weights_BT)
        return total / weight

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        loss, grads = jax.value_and_grad(mean_loss)(state.params, batch)
        updates, opt_state = optimizer.transformation.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        skipped, consecutive_skips = _skips(opt_state)
        metrics = {
            "loss": loss,
            "learning_rate": optimizer.schedule(state.step - skipped),
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
    config: models.TransformerConfig,
) -> Callable[[Any, Batch], tuple[Array, Array]]:
    """Sum of the losses of a batch and its weight: `(params, batch) -> (nats, tokens)`."""

    def eval_step(params: Any, batch: Batch) -> tuple[Array, Array]:
        logits_BTV = models.apply(config, params, batch.inputs_BT)
        return cross_entropy(logits_BTV, batch.targets_BT, batch.weights_BT)

    return eval_step


def _skips(opt_state: Any) -> tuple[Array, Array]:
    """Steps skipped by the guard in all and in a row; zeros where an optimizer has no guard."""
    guards = optax_strat.find_states(opt_state, optax_strat.SkipNonfiniteState)
    none = jnp.zeros((), jnp.int32)
    total = sum((guard.total for guard in guards), none)
    return total, sum((guard.consecutive for guard in guards), none)
