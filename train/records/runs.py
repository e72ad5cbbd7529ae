"""Runs as the report sees them, each put together from its lines.

Which runs may stand in one table: same data, model, tokens and commit, one run a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from train.host import units
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
      path: The file.
      notice: Told of what is passed over: a half-written line, a file without any whole one.

    Raises:
      RecordError: If a record cannot be read, or stands before any run's first line.
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


# What all runs of a table must share, in the words of the message. A commit with `+` (files
# differed from it) is not the one without: their runs are of different code, as far as one can say.
_SHARED: dict[str, Callable[[RunRecord], str]] = {
    "data": lambda run: f"{run.data.source} as {run.data.tokenizer} ({run.data.fingerprint:.12})",
    "model": lambda run: f"{run.model.name} with {run.model.parameters} parameters",
    "tokens": lambda run: f"{run.steps} steps x {run.batch_size} x {run.context} tokens",
    "commit": lambda run: run.commit,
}
# What the runs of one optimizer must share.
_OWN: dict[str, Callable[[RunRecord], str]] = {
    "learning rate": lambda run: f"{run.learning_rate:g}",
    "settings": lambda run: ", ".join(
        f"{name} {value}" for name, value in run.config.get("optimizer", {}).items()
    ),
}


def check_conditions(runs: Sequence[Run], *, allow_mixed: bool) -> None:
    """Refuses runs that a table must not average or rank together.

    Devices and versions may differ: the report says so.

    Args:
      runs: The runs of one table.
      allow_mixed: The user asked for a table over different conditions. Two runs of one
        optimizer and seed are refused even so: the pairing by seed would have no meaning.

    Raises:
      ValueError: Naming what differs and two runs that differ in it.
    """
    seeds: dict[tuple[str, int], list[str]] = {}
    for run in runs:
        named = f"{run.record.name} ({run.where})"
        seeds.setdefault((run.record.optimizer, run.record.seed), []).append(named)
    for (optimizer, seed), names in seeds.items():
        if len(names) > 1:
            raise ValueError(
                f"{units.listing(names)} are both {optimizer} with seed {seed}: "
                "one table takes one run for each optimizer and seed, so report them apart"
            )
    if allow_mixed:
        return
    records = [run.record for run in runs]
    for what, describe in _SHARED.items():
        _check_equal(what, records, describe)
    for optimizer in dict.fromkeys(record.optimizer for record in records):
        own = [record for record in records if record.optimizer == optimizer]
        for what, describe in _OWN.items():
            _check_equal(f"{optimizer}'s {what}", own, describe)


def _check_equal(
    what: str, runs: Sequence[RunRecord], describe: Callable[[RunRecord], str]
) -> None:
    first = runs[0]
    for other in runs[1:]:
        if describe(other) != describe(first):
            raise ValueError(
                f"the runs differ in {what}: {describe(first)} in {first.name}, {describe(other)} "
                f"in {other.name}; report them apart, or allow mixed runs (--allow-mixed)"
            )
