"""What each optimizer's step costs, timed side by side in one process.

Machines drift: a ratio of two times is only fair if they are taken in turn. Every round runs each
optimizer's compiled train step a few times on the same batch; a round's ratio is to the baseline's
time in that round, and the record keeps the median and the quartiles over the rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from train.data import Batch
from train.optimizer_configs import key
from train.program import Program
from train.records import CostRecord


def measure_costs(
    programs: Sequence[Program],
    batch: Batch,
    *,
    rounds: int,
    steps_per_round: int = 4,
    on_round: Callable[[int], None] = lambda done: None,
) -> list[CostRecord]:
    """Times every program's train step in turn.

    Args:
      programs: What to time; the first is the baseline.
      batch: The batch that every step sees.
      rounds: Rounds that count, after one that warms up.
      steps_per_round: Steps of one program in a row within a round.
      on_round: Called with the rounds done.

    Returns:
      One record a program, in the order given.
    """
    states = [program.init(seed=0) for program in programs]
    seconds = np.empty((rounds + 1, len(programs)))
    for row in range(rounds + 1):
        for column, program in enumerate(programs):
            states[column], seconds[row, column] = _time(
                program, states[column], batch, steps_per_round
            )
        on_round(row)
    counted = seconds[1:]
    ratios = counted / counted[:, :1]
    return [
        _record(program, ratios[:, column], float(np.median(counted[:, column])))
        for column, program in enumerate(programs)
    ]


def _time(program: Program, state: Any, batch: Batch, steps: int) -> tuple[Any, float]:
    jax.block_until_ready(state)
    start = time.perf_counter()
    for _ in range(steps):
        state, _ = program.train_step(state, batch)
    jax.block_until_ready(state)
    return state, (time.perf_counter() - start) / steps


def _record(program: Program, ratios: np.ndarray, seconds: float) -> CostRecord:
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    cost = program.compiled_cost()
    return CostRecord(
        optimizer=key(program.config.optimizer),
        title=type(program.config.optimizer).__name__,
        step_ratio=float(median),
        ratio_low=float(low),
        ratio_high=float(high),
        rounds=len(ratios),
        step_seconds=seconds,
        state_bytes_per_parameter=program.state_bytes_per_parameter(),
        peak_bytes=program.peak_bytes(),
        compile_seconds=program.compile_seconds,
        flops=cost.get("flops"),
        bytes_accessed=cost.get("bytes accessed"),
    )
