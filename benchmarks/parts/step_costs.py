"""Whole train steps of several optimizers timed in turn, and what share of them is the update."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parts import outcome, train_programs, update
from train.config.run import RunConfig
from train.experiments.costs.measure import measure_costs
from train.optimizers import OPTIMIZERS, OptimizerConfig, StratOpt
from train.records.lines import CostRecord
from train.step.program import Program, build_program
from train.tasks import task_of

TIME, MEMORY = 1.005, 0.9
"""Targets, of AdamW's: of our two optimizers' time, and of the memory of StratOpt with moments in
bfloat16."""

STEADY = (TIME - 1) / 2
"""How far the second AdamW may be from the first."""

CONTESTANTS: dict[str, OptimizerConfig] = {
    **{kind().key: kind() for kind in OPTIMIZERS},
    "stratopt, bf16": StratOpt(mu_dtype="bfloat16", second_moment="bfloat16"),
}


@dataclass(frozen=True)
class Row:
    """One optimizer beside AdamW."""

    optimizer: str
    step: float
    """Seconds."""
    ratio: tuple[float, float, float]
    """Lower quartile, median and upper quartile."""
    share: float
    """Of the update alone in the step."""
    state: float
    """Bytes of parameters and optimizer state, of AdamW's."""
    peak: float
    """Peak memory, of AdamW's."""
    verdicts: dict[str, str]
    """Of its targets."""


def measure(
    config: RunConfig, only: Sequence[str], *, rounds: int, steps: int
) -> tuple[list[Row], float]:
    """Times AdamW, AdamW again and all others in turn.

    Args:
      config: What they train.
      only: Names of contestants.
      rounds: How often each has its turn.
      steps: How many steps a turn has.

    Returns:
      A row each, AdamW's first, and the A/A control.

    Raises:
      ValueError: There is no contestant of such a name.
    """
    for name in only:
        if name not in CONTESTANTS:
            raise ValueError(f"There is no {name!r} to compare: choose from {[*CONTESTANTS]}.")
    names, task = dict.fromkeys(("adamw", *only)), task_of(config)
    programs = {
        name: build_program(dataclasses.replace(config, optimizer=CONTESTANTS[name]), task)
        for name in names
    }
    adamw, *others = programs.values()
    costs = measure_costs(
        [adamw, adamw, *others],
        train_programs.random_batch(config),
        rounds=rounds,
        steps_per_round=steps,
    )
    base, again, *rest = costs
    control = again.step_ratio
    steady = abs(control - 1) <= STEADY
    rows = [
        _row(name, program, cost, base, steady)
        for (name, program), cost in zip(programs.items(), [base, *rest], strict=True)
    ]
    return rows, control


def _row(name: str, program: Program, cost: CostRecord, base: CostRecord, steady: bool) -> Row:
    state = _bytes_per_parameter(cost) / _bytes_per_parameter(base)
    verdicts = {}
    if name in ("stratopt", "aardvark"):
        verdicts["time"] = outcome.judge(cost.step_ratio <= TIME, trusted=steady)
    if name == "stratopt, bf16":
        verdicts["memory"] = outcome.judge(state <= MEMORY)
    return Row(
        optimizer=name,
        step=cost.step_seconds,
        ratio=(cost.ratio_low, cost.step_ratio, cost.ratio_high),
        share=_update_seconds(program) / cost.step_seconds,
        state=state,
        peak=cost.peak_bytes / base.peak_bytes,
        verdicts=verdicts,
    )


def _bytes_per_parameter(cost: CostRecord) -> float:
    return 4 + cost.state_bytes_per_parameter


def _update_seconds(program: Program, warm_up: int = 2, steps: int = 10) -> float:
    _, params, opt_state = program.init(seed=0)
    gradients = jax.tree.map(jnp.ones_like, params)
    step = update.jitted_step(program.optimizer.transformation)
    seconds = []
    for _ in range(warm_up + steps):
        start = time.perf_counter()
        params, opt_state = jax.block_until_ready(step(params, opt_state, gradients))
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[warm_up:]))
