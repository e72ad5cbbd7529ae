"""Known facts that the harness must reproduce before it compares anything.

Each through `train`'s own table of optimizers and train step, on a small model and random tokens.
"""

import dataclasses
import functools
import itertools
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from tests.support import tiny
from train.config.run import ScheduleConfig
from train.data import Batch
from train.experiments import ladders
from train.optimizers import AdamW, AdEMAMix, Lion
from train.step.optimizer import build_optimizer
from train.step.state import TrainState
from train.step.train_step import make_train_step
from train.tasks import task_of

RATE, STEPS = 1e-2, 5
MODEL = dataclasses.replace(tiny.MODEL, layers=1)
TASK = task_of(tiny.run_config(Path("no data"), model=MODEL))
SCHEDULE = ScheduleConfig(warmup_steps=2)
ADAMW = AdamW(learning_rate=RATE, clip=None)


@functools.cache
def trained(optimizer):
    """The losses and the parameters of a few steps, with those before the first."""
    built = build_optimizer(optimizer, SCHEDULE, STEPS)
    step = jax.jit(make_train_step(TASK, built))
    params = initial_params()
    state = TrainState(jnp.zeros((), jnp.int32), params, built.transformation.init(params))
    seen = [(float("nan"), params)]
    for seed in range(STEPS):
        tokens = np.random.default_rng(seed).integers(200, size=(8, 17), dtype=np.int32)
        batch = Batch(tokens[:, :-1], tokens[:, 1:], np.ones((8, 16), np.float32))
        state, metrics = step(state, batch)
        seen.append((float(metrics["loss"]), state.params))
    return seen


@functools.cache
def initial_params():
    return jax.jit(models.init, static_argnums=0)(MODEL, jax.random.key(0))


def check_trains_as_adamw(optimizer):
    for (loss, params), (expected_loss, expected) in zip(
        trained(optimizer)[1:], trained(ADAMW)[1:], strict=True
    ):
        assert loss == pytest.approx(expected_loss, rel=1e-6)
        chex.assert_trees_all_close(params, expected, atol=1e-6, rtol=0)


def test_aardvark_with_all_multipliers_1_and_no_clip_is_adamw():
    check_trains_as_adamw(ladders.as_aardvark(ADAMW))


@pytest.mark.slow
def test_stratopt_with_alpha_1_bias_correction_and_no_clip_is_adamw():
    check_trains_as_adamw(ladders.as_stratopt(ADAMW))


@pytest.mark.slow
def test_muon_on_no_stratum_is_adamw():
    check_trains_as_adamw(ladders.as_muon(ADAMW))


@pytest.mark.slow
def test_ademamix_without_its_slow_momentum_is_adamw():
    check_trains_as_adamw(AdEMAMix(learning_rate=RATE, b2=ADAMW.b2, alpha=0.0, clip=None))


@pytest.mark.slow
def test_a_clip_that_no_gradient_reaches_is_no_clip():
    check_trains_as_adamw(dataclasses.replace(ADAMW, clip=1e6))


@pytest.mark.parametrize(
    "optimizer",
    [
        AdamW(RATE, b1=0.0, b2=0.0, eps=1e-16, weight_decay=0.0, clip=None),
        pytest.param(
            Lion(RATE, b1=0.0, b2=0.0, weight_decay=0.0, clip=None), marks=pytest.mark.slow
        ),
    ],
    ids=["AdamW", "Lion"],
)
def test_without_memory_and_decay_it_is_sign_descent(optimizer):
    """Every number moves by the rate, or, where its gradient is zero, not at all."""
    schedule = build_optimizer(optimizer, SCHEDULE, STEPS).schedule
    params = [params for _, params in trained(optimizer)]
    for step, (before, after) in enumerate(itertools.pairwise(params)):
        for old, new in zip(*map(jax.tree.leaves, (before, after)), strict=True):
            moves = np.abs(new - old) / schedule(step)
            assert np.all((moves < 1e-4) | (np.abs(moves - 1) < 1e-4))
