"""Programs timed in turn: whole train steps, and updates alone.

Machines drift: a ratio of two times is only fair if they are taken in turn. A round runs every
program for a few steps; every other round goes through them backwards, so that none always comes
first. A *runner* does a number of steps of one program and waits until they are done.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from train.data import Batch
from train.host.compiling import CompileTime
from train.step.program import Program
from train.step.sharding import tracing_on

Runner = Callable[[int], None]


def take_turns(
    runners: Sequence[Runner],
    steps: Sequence[int],
    rounds: int,
    on_round: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Times every runner once a round.

    Args:
      runners: What to time.
      steps: Steps of each one's turn.
      rounds: Rounds that count, after one that warms up.
      on_round: Called with the rounds done.

    Returns:
      Seconds a step, of shape (rounds, runners).
    """
    seconds = np.empty((rounds + 1, len(runners)))
    for row in range(rounds + 1):
        order = range(len(runners))
        for column in order if row % 2 else reversed(order):
            seconds[row, column] = _seconds(runners[column], steps[column]) / steps[column]
        on_round(row)
    return seconds[1:]


def steps_lasting(seconds: float, runner: Runner) -> int:
    """How many steps of a runner take about that long, by its fastest of a few."""
    return max(1, math.ceil(seconds / min(_seconds(runner, 1) for _ in range(5))))


def step_runner(program: Program, batch: Batch) -> Runner:
    """Whole train steps on one batch."""
    state = program.init(seed=0)

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, _ = program.train_step(state, batch)
        jax.block_until_ready(state)

    run(0)
    return run


def update_runner(program: Program, update: jax.stages.Compiled, gradients: Any) -> Runner:
    """The update alone, as `compile_update` made it, of the same gradients again and again."""
    _, params, opt_state = program.init(seed=0)

    def run(steps: int) -> None:
        nonlocal params, opt_state
        for _ in range(steps):
            params, opt_state = update(params, opt_state, gradients)
        jax.block_until_ready((params, opt_state))

    run(0)
    return run


def compile_update(program: Program) -> tuple[jax.stages.Compiled, float]:
    """Compiles the optimizer's part of the step: transformation and application, in place.

    Returns:
      From parameters, state and gradients to new parameters and state; and the seconds it took.
    """
    _, params, opt_state = program.target
    transformation = program.optimizer.transformation

    def update(params: Any, opt_state: Any, gradients: Any) -> tuple[Any, Any]:
        updates, opt_state = transformation.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    shardings = jax.tree.map(lambda leaf: leaf.sharding, (params, opt_state))
    jitted = jax.jit(update, donate_argnums=(0, 1), out_shardings=shardings)
    with CompileTime() as spent, tracing_on(program.mesh):
        compiled = jitted.lower(params, opt_state, params).compile()
    return compiled, spent.seconds


def _seconds(runner: Runner, steps: int) -> float:
    start = time.perf_counter()
    runner(steps)
    return time.perf_counter() - start
