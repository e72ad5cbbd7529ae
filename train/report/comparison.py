"""A comparison folder as the report sees it: runs grouped by optimizer, and their costs.

comparison.json             what was compared, shown as it is
costs.jsonl                 one cost record per optimizer, if they were measured
runs/<optimizer>-s<seed>/records.jsonl
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from train.records import (
    CostRecord,
    EvalRecord,
    FinalRecord,
    Record,
    RunRecord,
    StepRecord,
    read_records,
)
from train.report.conditions import check_conditions
from train.report.statistics import Estimate, estimate, paired_difference

BASELINE = "adamw"  # the optimizer that differences and ratios are taken to


@dataclass(frozen=True)
class Run:
    """One run's records; ``final`` is None while it is unfinished."""

    record: RunRecord
    steps: tuple[StepRecord, ...]
    evals: tuple[EvalRecord, ...]
    final: FinalRecord | None

    @property
    def last_step(self) -> int:
        """How far the run has come."""
        steps = [line.step for line in self.steps]
        return max(steps + [line.step for line in self.evals], default=0)

    @property
    def diverged(self) -> bool:
        """Whether the run ended without a usable loss."""
        return self.final is not None and (
            self.final.diverged or not math.isfinite(self.final.val_loss)
        )


@dataclass(frozen=True, eq=False)  # by identity, so that it can be the key of a dictionary
class Group:
    """All runs of one optimizer. A diverged run counts as such: no mean holds it, none hides it."""

    key: str
    title: str
    runs: tuple[Run, ...]
    cost: CostRecord | None

    @cached_property
    def finished(self) -> tuple[Run, ...]:
        """The runs that ended with a usable loss."""
        return tuple(run for run in self.runs if run.final and not run.diverged)

    @cached_property
    def diverged(self) -> tuple[Run, ...]:
        """The runs that ended without one."""
        return tuple(run for run in self.runs if run.diverged)

    @cached_property
    def unfinished(self) -> tuple[Run, ...]:
        """The runs that have not ended."""
        return tuple(run for run in self.runs if not run.final)

    @property
    def finals(self) -> dict[int, FinalRecord]:
        """The finished runs' final records by seed."""
        return {run.record.seed: run.final for run in self.finished if run.final}

    @property
    def losses(self) -> dict[int, float]:
        """The finished runs' validation losses by seed."""
        return {seed: final.val_loss for seed, final in self.finals.items()}

    @property
    def state_bytes_per_parameter(self) -> float | None:
        """The size of the optimizer's state, measured with its cost or else by a run that ended."""
        measured = [self.cost, *(run.final for run in self.runs)]
        return next((found.state_bytes_per_parameter for found in measured if found), None)

    def over_seeds(self, value: Callable[[FinalRecord], float]) -> Estimate | None:
        """A final number's mean over the finished runs; None when there are none."""
        values = [value(final) for final in self.finals.values()]
        return estimate(values) if values else None

    def loss_difference(self, other: "Group") -> Estimate | None:
        """This optimizer's validation loss minus the other's, paired by seed."""
        return paired_difference(self.losses, other.losses)


@dataclass(frozen=True)
class Comparison:
    """What the report is about.

    Attributes:
        groups: the optimizers; the best mean validation loss first, then those of which a run
            diverged, then those of which none has finished.
        about: the text of comparison.json, or None.
        notices: what was passed over in reading.
    """

    groups: tuple[Group, ...]
    about: str | None
    notices: tuple[str, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs."""
        return tuple(run for group in self.groups for run in group.runs)

    @property
    def ended(self) -> tuple[Group, ...]:
        """The optimizers of which a run has finished or diverged: the rows of the tables."""
        return tuple(group for group in self.groups if group.finished or group.diverged)

    @property
    def baseline(self) -> Group | None:
        """AdamW's group, if a run of it has finished."""
        return next(
            (group for group in self.groups if group.key == BASELINE and group.finished), None
        )

    @property
    def has_step_ratios(self) -> bool:
        """Whether step times were measured, and in turn with the baseline's."""
        return any(group.cost for group in self.groups if group.key == BASELINE)


def load(folder: Path, *, allow_mixed: bool = False) -> Comparison:
    """Reads a comparison folder, or the folder of a single run.

    Args:
        folder: where it is.
        allow_mixed: take runs of different data, model, tokens or rates into one table.

    Raises:
        ValueError: there are no runs, two have the same optimizer and seed, or they are mixed.
        RecordError: a record cannot be read.
    """
    paths = sorted(folder.glob("runs/*/records.jsonl")) or sorted(folder.glob("records.jsonl"))
    notices: list[str] = []
    runs: dict[str, list[Run]] = {}
    for path in paths:
        run = _run(read_records(path, notice=notices.append))
        if run is None:
            notices.append(f"{path}: left out, its first record is not written yet")
        else:
            runs.setdefault(run.record.optimizer, []).append(run)
    if not runs:
        raise ValueError(
            f"{folder} holds no runs: expected runs/<optimizer>-s<seed>/records.jsonl in it, "
            "as `python -m train compare` writes them"
        )
    check_conditions(
        [run.record for group in runs.values() for run in group], allow_mixed=allow_mixed
    )
    costs_path = folder / "costs.jsonl"
    costs = read_records(costs_path, notice=notices.append) if costs_path.exists() else []
    cost_of = {cost.optimizer: cost for cost in costs if isinstance(cost, CostRecord)}
    groups = [
        Group(key, group[0].record.title, tuple(group), cost_of.get(key))
        for key, group in sorted(runs.items())
    ]
    about = folder / "comparison.json"
    return Comparison(
        groups=tuple(sorted(groups, key=_rank)),
        about=about.read_text(encoding="utf-8", errors="replace") if about.exists() else None,
        notices=tuple(notices),
    )


def _run(records: list[Record]) -> Run | None:
    record = next((line for line in records if isinstance(line, RunRecord)), None)
    if record is None:
        return None
    return Run(
        record=record,
        steps=tuple(line for line in records if isinstance(line, StepRecord)),
        evals=tuple(line for line in records if isinstance(line, EvalRecord)),
        final=next((line for line in reversed(records) if isinstance(line, FinalRecord)), None),
    )


def _rank(group: Group) -> tuple[bool, bool, float]:
    loss = group.over_seeds(lambda final: final.val_loss)
    return loss is None, bool(group.diverged), loss.mean if loss else 0.0
