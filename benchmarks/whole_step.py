"""The train step as a run makes it, on tokens that mean nothing."""

import time

import jax
import numpy as np

from train.config.run import Experiment
from train.data import Batch
from train.step.program import Program


def random_batch(config: Experiment) -> Batch:
    """One batch of an experiment's shape; every position counts."""
    shape = config.batch_size, config.context
    tokens = np.random.default_rng(0).integers(0, config.model.vocab_size, shape, dtype=np.int32)
    return Batch(tokens, tokens, np.ones(shape, np.float32))


def seconds(program: Program, batch: Batch, *, warm_up: int = 5, steps: int = 20) -> float:
    """Of one step, on average; the host waits at the end only."""
    state = program.init(seed=0)
    for step in range(warm_up + steps):
        if step == warm_up:
            jax.block_until_ready(state)
            start = time.perf_counter()
        state, _ = program.train_step(state, batch)
    jax.block_until_ready(state)
    return (time.perf_counter() - start) / steps
