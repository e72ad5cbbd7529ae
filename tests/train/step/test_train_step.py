"""One step: what it computes, what it reports, and what a bad batch does to it."""

import functools
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import models
from tests.support import tiny
from train.data import Batch
from train.step.optimizer import build_optimizer
from train.step.state import TrainState
from train.step.train_step import make_train_step
from train.tasks import task_of


def batch_of(seed=0):
    tokens = np.random.default_rng(seed).integers(200, size=(8, 17), dtype=np.int32)
    return Batch(tokens[:, :-1], tokens[:, 1:], np.ones((8, 16), np.float32))


@functools.cache
def setup(optimizer):
    """A state at the model's own initial parameters, the compiled step, and the optimizer."""
    config = tiny.run_config(Path("unused"), optimizer=optimizer)
    built = build_optimizer(config.optimizer, config.schedule, config.steps)
    params = initial_params()
    state = TrainState(jnp.zeros((), jnp.int32), params, built.transformation.init(params))
    return state, jax.jit(make_train_step(task_of(config), built)), built


@functools.cache
def initial_params():
    return jax.jit(models.init, static_argnums=0)(tiny.MODEL, jax.random.key(0))


def test_a_step_is_gradient_update_apply():
    state, step, built = setup(tiny.OPTIMIZERS[0])
    batch = batch_of()

    def mean_loss(params):
        log_probs = jax.nn.log_softmax(models.apply(tiny.MODEL, params, batch.inputs_BT))
        return -jnp.take_along_axis(log_probs, batch.targets_BT[..., None], -1).mean()

    loss, grads = jax.jit(jax.value_and_grad(mean_loss))(state.params)
    updates, _ = built.transformation.update(grads, state.opt_state, state.params)
    after, metrics = step(state, batch)
    chex.assert_trees_all_close(
        after.params, optax.apply_updates(state.params, updates), rtol=1e-4, atol=1e-5
    )
    assert after.step == 1
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-5)
    np.testing.assert_allclose(metrics["learning_rate"], built.schedule(0))


def test_norms_by_layer_type_add_up_to_the_global_norm():
    state, step, _ = setup(tiny.OPTIMIZERS[-1])
    _, metrics = step(state, batch_of())
    assert set(metrics["grad_norms"]) == {"embedding", "attention", "mlp", "head", "norm"}
    squares = sum(norm**2 for norm in metrics["grad_norms"].values())
    np.testing.assert_allclose(jnp.sqrt(squares), metrics["grad_norm"], rtol=1e-5)


def test_the_first_loss_is_that_of_a_uniform_guess():
    state, step, _ = setup(tiny.OPTIMIZERS[0])
    _, metrics = step(state, batch_of())
    np.testing.assert_allclose(metrics["loss"], np.log(tiny.MODEL.vocab_size), rtol=0.02)


@pytest.mark.parametrize("optimizer", tiny.OPTIMIZERS, ids=tiny.optimizer_name)
def test_a_bad_batch_moves_the_position_and_nothing_else(optimizer):
    state, step, _ = setup(optimizer)
    poisoned = batch_of()._replace(weights_BT=np.full((8, 16), np.nan, np.float32))
    after, metrics = step(state, poisoned)
    chex.assert_trees_all_equal(after.params, state.params)
    assert after.step == 1
    assert (metrics["skipped"], metrics["consecutive_skips"]) == (1, 1)
    again, metrics = step(after, batch_of())
    assert (metrics["skipped"], metrics["consecutive_skips"]) == (1, 0)
    # The schedule did not move on: the next step is the first update.
    expected, _ = step(state, batch_of())
    chex.assert_trees_all_equal(again.params, expected.params)


def test_golden_metrics_of_the_first_two_steps():
    """Numbers of a known good version: whoever changes them must know why."""
    state, step, _ = setup(tiny.OPTIMIZERS[-1])
    seen = []
    for seed in (0, 1):
        state, metrics = step(state, batch_of(seed))
        seen.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    np.testing.assert_allclose(seen, [[5.599905, 0.517472], [5.612861, 0.498396]], rtol=2e-4)
