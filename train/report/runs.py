"""Runs as the report sees them, each put together from its lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from train.records.files import read_file
from train.records.lines import (
    CostRecord,
    EvalRecord,
    FinalRecord,
    Record,
    RecordError,
    RunRecord,
    StepRecord,
)


@dataclass(frozen=True)
class Run:
    """One run's records; ``final`` is None while it is unfinished, ``where`` its first line."""

    record: RunRecord
    steps: tuple[StepRecord, ...]
    evals: tuple[EvalRecord, ...]
    final: FinalRecord | None
    where: str = ""

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


def read_runs(
    path: Path, notice: Callable[[str], None]
) -> tuple[tuple[Run, ...], tuple[CostRecord, ...]]:
    """The runs and the costs that a file of records holds, in its order.

    Args:
        path: the file.
        notice: told of what is passed over: a half-written line, a file without any whole one.

    Raises:
        RecordError: a record cannot be read, or stands before any run's first line.
    """
    runs: list[tuple[str, RunRecord, list[Record]]] = []
    costs: list[CostRecord] = []
    for number, record in read_file(path, notice=notice):
        where = f"{path}, line {number}"
        if isinstance(record, RunRecord):
            runs.append((where, record, []))
        elif isinstance(record, CostRecord):
            costs.append(record)
        elif runs:
            runs[-1][-1].append(record)
        else:
            raise RecordError(f"{where}: a record of kind {record.kind!r} before any run's first")
    if not runs and not costs:
        notice(f"{path}: left out, its first record is not written yet")
    return tuple(_run(*run) for run in runs), tuple(costs)


def _run(where: str, record: RunRecord, lines: Sequence[Record]) -> Run:
    return Run(
        record=record,
        steps=tuple(line for line in lines if isinstance(line, StepRecord)),
        evals=tuple(line for line in lines if isinstance(line, EvalRecord)),
        final=next((line for line in reversed(lines) if isinstance(line, FinalRecord)), None),
        where=where,
    )
