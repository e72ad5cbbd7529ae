"""How soon each optimizer is where AdamW ends: steps, tokens and time to a target loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from train.host import units
from train.records.lines import EvalRecord
from train.report.comparison import ComparedRuns, Group, Run
from train.report.statistics import PERCENT, Estimate, estimate
from train.report.table import NOTHING, Cell, Column, Table, show_interval


@dataclass(frozen=True, kw_only=True)
class Reach:
    """One optimizer in Table 4; estimates are over the seeds that reached their target.

    Attributes:
      reached: How many seeds reached it, of `runs` that AdamW has too.
      steps: Steps until then, interpolated between evaluations.
      tokens: The same in tokens.
      seconds: Time of those steps: of as many as were timed in turn with the others', where that
        was done, and else by the runs' own clocks, which other work on the machine disturbs.
      speed_up: Logarithm of AdamW's steps over the optimizer's: 0.1 says that it is there a
        tenth sooner.
    """

    title: str
    reached: int
    runs: int
    steps: Estimate | None
    tokens: Estimate | None
    seconds: Estimate | None
    speed_up: Estimate | None


def targets_table(comparison: ComparedRuns) -> Table:
    """Table 4: steps, tokens and seconds until AdamW's final validation loss of the same seed."""
    baseline = comparison.baseline
    rows = [_row(group, baseline) for group in comparison.ended] if baseline else []
    return Table(
        key="table4",
        title="Table 4. Until where AdamW ends",
        caption=(
            "Until AdamW’s final validation loss of the same seed; linear between evaluations. "
            f"Mean over the seeds that get there, ± half of the {PERCENT} interval. Seconds are of "
            "steps timed in turn with AdamW’s, where they were. Schedules end with the run: one "
            "that is planned shorter may get there sooner."
        ),
        columns=(
            Column("Optimizer", lambda reach: reach.title, is_text=True),
            Column("Reached", lambda reach: f"{reach.reached} of {reach.runs}"),
            Column("Steps", lambda reach: reach.steps, lambda steps: show_interval(steps, 0)),
            Column("Tokens", lambda reach: reach.tokens, _show_tokens),
            Column("Seconds", lambda reach: reach.seconds, lambda time: show_interval(time, 1)),
            Column(
                "Speed-up",
                lambda reach: reach.speed_up,
                _show_speed_up,
                "AdamW’s steps over the optimizer’s.",
            ),
        ),
        rows=tuple(row for row in rows if row.runs),
    )


def first_reach(run: Run, target: float, positions: Sequence[float]) -> float | None:
    """Where a run's validation loss first meets a target, on lines between its evaluations.

    Args:
      run: The run.
      target: A loss, in nats per token.
      positions: Where each evaluation stands, such as its step or its time.

    Returns:
      The position, or None where the target is never met.
    """
    losses = [line.loss for line in run.evals]
    for index, loss in enumerate(losses):
        if loss <= target:
            if index == 0 or not math.isfinite(losses[index - 1]):
                return positions[index]
            ends = [loss, losses[index - 1]], [positions[index], positions[index - 1]]
            return float(np.interp(target, *ends))
    return None


def _row(group: Group, baseline: Group) -> Reach:
    targets = baseline.losses
    runs = [run for run in (*group.finished, *group.diverged) if run.record.seed in targets]
    # One that met its target and then diverged has not reached it.
    steps = _reached(group.finished, targets, lambda line: line.step)
    own = _reached(baseline.finished, targets, lambda line: line.step)
    own_clock = _reached(group.finished, targets, lambda line: line.seconds)
    timed = (
        {seed: step * group.cost.step_seconds for seed, step in steps.items()} if group.cost else {}
    )
    a_step = runs[0].record.batch_size * runs[0].record.context if runs else 0
    return Reach(
        title=group.title,
        reached=len(steps),
        runs=len(runs),
        steps=_over(steps.values()),
        tokens=_over(a_step * step for step in steps.values()),
        seconds=_over((timed or own_clock).values()),
        # Who ends no better than it began has met its target before the first step.
        speed_up=_over(
            math.log(own[seed] / step)
            for seed, step in steps.items()
            if step > 0 and own.get(seed, 0) > 0
        ),
    )


def _reached(
    runs: Iterable[Run], targets: Mapping[int, float], measure: Callable[[EvalRecord], float]
) -> dict[int, float]:
    """By seed, where the runs meet their targets, of those that do."""
    found = {
        run.record.seed: first_reach(
            run, targets[run.record.seed], [float(measure(line)) for line in run.evals]
        )
        for run in runs
        if run.record.seed in targets
    }
    return {seed: position for seed, position in found.items() if position is not None}


def _over(values: Iterable[float]) -> Estimate | None:
    kept = list(values)
    return estimate(kept) if kept else None


def _show_tokens(tokens: Estimate | None) -> Cell:
    return NOTHING if tokens is None else Cell(units.count(tokens.mean))


def _show_speed_up(log: Estimate | None) -> Cell:
    if log is None:
        return NOTHING
    middle, low, high = (
        f"{units.number(math.exp(value), 2)}×" for value in (log.mean, log.low, log.high)
    )
    return Cell(middle, "n = 1" if log.half_width is None else f"{low}–{high}")
