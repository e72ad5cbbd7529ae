"""A tuning as its records tell it: the trials of each optimizer, and the best one.

A tuning is a folder, or the two files that it was packed into:

    tuning.json, trials/<optimizer>/<number>/records.jsonl
    <name>.json, <name>.jsonl

The JSON file says what was tuned: the search spaces, and the number of trials. The study takes
the best settings from here, and the report everything else.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from train.host.typed_json import from_json, read_json
from train.records.files import TUNING, record_files
from train.records.lines import FinalRecord
from train.records.runs import Run, check_conditions, read_runs


@dataclass(frozen=True, eq=False)
class Trial:
    """A trial that has ended; number 0 has the default settings at the papers' rate."""

    number: int
    settings: dict[str, Any]
    """The tuned fields of the optimizer's configuration."""
    run: Run
    final: FinalRecord

    @property
    def loss(self) -> float:
        """Validation loss in nats per token; infinite for a trial that diverged."""
        return math.inf if self.run.diverged else self.final.val_loss

    @property
    def start(self) -> float:
        """The validation loss before the first step."""
        return self.run.evals[0].loss

    @property
    def gained(self) -> float:
        """The loss that enters a mean: the start for a trial that diverged."""
        return min(self.loss, self.start)


@dataclass(frozen=True, eq=False)
class TunedOptimizer:
    """One optimizer's trials.

    Attributes:
      key: The optimizer's name in records.
      title: Its name for readers.
      dimensions: Its search space, as the JSON file has it.
      runs: All trials that have begun, by number.
      trials: Those that have ended, by number.
    """

    key: str
    title: str
    dimensions: tuple[dict[str, Any], ...]
    runs: tuple[Run, ...]
    trials: tuple[Trial, ...]

    @property
    def default(self) -> Trial | None:
        """The trial of the default settings, if it has ended."""
        return next((trial for trial in self.trials if trial.number == 0), None)

    @cached_property
    def best(self) -> Trial | None:
        """The trial with the lowest loss, or None if all diverged."""
        usable = [trial for trial in self.trials if not trial.run.diverged]
        return min(usable, key=lambda trial: trial.loss, default=None)

    @property
    def diverged(self) -> tuple[Trial, ...]:
        """The trials without a usable loss."""
        return tuple(trial for trial in self.trials if trial.run.diverged)


@dataclass(frozen=True)
class TuningRecords:
    """All records of a tuning.

    Attributes:
      optimizers: The lowest loss first.
      planned: The number of trials of each optimizer.
      about: The text of the JSON file.
      notices: What was passed over in reading.
    """

    optimizers: tuple[TunedOptimizer, ...]
    planned: int
    about: str
    notices: tuple[str, ...]


def is_tuning(path: Path) -> bool:
    """Whether a path is a tuning: its folder, or the file that it was packed into."""
    if path.is_dir():
        # A folder of packed files may hold a tuning's `tuning.json` beside its `tuning.jsonl`.
        return (path / TUNING).exists() and not (path / TUNING).with_suffix(".jsonl").exists()
    return path.suffix == ".jsonl" and path.with_suffix(".json").exists()


def read_tuning(path: Path, *, allow_mixed: bool = False) -> TuningRecords:
    """Reads a tuning, finished or not.

    Args:
      path: Its folder, or the file that it was packed into, the search spaces beside it.
      allow_mixed: Accept trials of different data, model, tokens or commit.

    Raises:
      ValueError: If there is no tuning or no trial, or the trials are of different conditions.
      RecordError: If a record cannot be read.
    """
    if not is_tuning(path):
        raise ValueError(f"{path} holds no tuning: `python -m train tune` makes one")
    about = path / TUNING if path.is_dir() else path.with_suffix(".json")
    tuning = read_json(about, dict[str, Any])
    spaces = from_json(tuning.get("spaces"), tuple[dict[str, Any], ...], f"{about}: spaces")
    planned = from_json(tuning.get("trials"), int, f"{about}: trials")
    notices: list[str] = []
    runs = [run for file in record_files(path) for run in read_runs(file, notices.append)[0]]
    if not runs:
        raise ValueError(f"{path} holds no trials yet: wait for the first, or tune again")
    check_conditions([_apart(run) for run in runs], allow_mixed=allow_mixed)
    tuned = [_tuned(runs, *_read_space(space, f"{about}: a space")) for space in spaces]
    tuned.sort(key=lambda optimizer: optimizer.best.loss if optimizer.best else math.inf)
    text = about.read_text(encoding="utf-8")
    return TuningRecords(tuple(tuned), planned, text, tuple(notices))


def _read_space(space: dict[str, Any], where: str) -> tuple[str, tuple[dict[str, Any], ...]]:
    """The optimizer's title and the dimensions of its search space."""
    optimizer = from_json(space.get("optimizer"), dict[str, Any], f"{where}'s optimizer")
    title = from_json(optimizer.get("kind"), str, f"{where}'s optimizer")
    dimensions = from_json(space.get("dimensions"), tuple[dict[str, Any], ...], where)
    if not all(isinstance(dimension.get("field"), str) for dimension in dimensions):
        raise ValueError(f"{where} has a dimension that names no field")
    return title, dimensions


def _tuned(
    runs: Sequence[Run], title: str, dimensions: tuple[dict[str, Any], ...]
) -> TunedOptimizer:
    by_number = {_number(run): run for run in runs if run.record.optimizer == title.lower()}
    in_order = tuple(by_number[number] for number in sorted(by_number))
    fields = [dimension["field"] for dimension in dimensions]
    trials = tuple(_trial(run, run.final, fields) for run in in_order if run.final)
    return TunedOptimizer(title.lower(), title, dimensions, in_order, trials)


def _trial(run: Run, final: FinalRecord, fields: Sequence[str]) -> Trial:
    try:
        config = run.record.config["optimizer"]
        settings = {field: config[field] for field in fields}
    except (KeyError, TypeError):
        raise ValueError(
            f"{run.where}: the trial's settings are not there: it needs its `config`"
        ) from None
    if not run.evals:
        raise ValueError(f"{run.where}: the trial has no evaluation, and so no loss to start from")
    return Trial(_number(run), settings, run, final)


def _number(run: Run) -> int:
    name = re.fullmatch(r".+/(\d+)", run.record.name)
    if name is None:
        raise ValueError(
            f"{run.where}: {run.record.name!r} names no trial: expected <optimizer>/<number>"
        )
    return int(name[1])


def _apart(run: Run) -> Run:
    """The trial as if its optimizer were its own: trials share a seed and differ in settings."""
    record = run.record
    optimizer = f"{record.optimizer}/{_number(run)}"
    return dataclasses.replace(run, record=dataclasses.replace(record, optimizer=optimizer))
