"""A tuning as its report sees it: the trials of each optimizer that have ended.

tuning.json, trials/<optimizer>/<number>/records.jsonl      a tuning's folder
<name>.json, <name>.jsonl                                   the same, packed into one file

The JSON file says what was tuned: the search spaces, and the number of trials.
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
from train.optimizers.dimensions import Dimension
from train.records.files import TUNING, record_files
from train.records.lines import FinalRecord
from train.report.comparison import Comparison, Group
from train.report.runs import Run, check_conditions, read_runs


@dataclass(frozen=True, eq=False)
class Trial:
    """A trial that has ended; number 0 is the defaults at the papers' rate."""

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
        """What the trial counts with in a mean: who draws one that diverges has gained nothing."""
        return min(self.loss, self.start)


@dataclass(frozen=True, eq=False)
class Tuned:
    """One optimizer: its search space, and its trials that have ended, in their order."""

    group: Group
    dimensions: tuple[Dimension, ...]
    trials: tuple[Trial, ...]

    @property
    def default(self) -> Trial | None:
        """The first trial, if it has ended."""
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
class Results:
    """What a tuning's report is about.

    Attributes:
        tuned: the optimizers, the lowest loss first.
        planned: trials of each, as many for all.
        comparison: the same runs as a comparison has them.
    """

    tuned: tuple[Tuned, ...]
    planned: int
    comparison: Comparison

    @property
    def ended(self) -> int:
        """The trials that have ended, of all optimizers together."""
        return sum(len(tuned.trials) for tuned in self.tuned)

    @property
    def ranked(self) -> tuple[Tuned, ...]:
        """The optimizers whose defaults have been tried: every budget begins with them."""
        return tuple(tuned for tuned in self.tuned if tuned.default)

    @property
    def budget(self) -> int:
        """The trials that all ranked optimizers have, the largest budget to rank them at."""
        return min((len(tuned.trials) for tuned in self.ranked), default=0)


def is_tuning(path: Path) -> bool:
    """Whether a path is a tuning: its folder, or the file that it was packed into."""
    if path.is_dir():
        # A folder of packed files may hold a tuning's `tuning.json` beside its `tuning.jsonl`.
        return (path / TUNING).exists() and not (path / TUNING).with_suffix(".jsonl").exists()
    return path.suffix == ".jsonl" and path.with_suffix(".json").exists()


def load_results(path: Path, *, allow_mixed: bool = False) -> Results:
    """Reads a tuning, finished or not.

    Args:
        path: its folder, or the file that it was packed into, the search spaces beside it.
        allow_mixed: take trials of different data, model, tokens or commit into one table.

    Raises:
        ValueError: there is no tuning or no trial, or the trials are of different conditions.
        RecordError: a record cannot be read.
    """
    if not is_tuning(path):
        raise ValueError(f"{path} holds no tuning: `python -m train tune` makes one")
    about = path / TUNING if path.is_dir() else path.with_suffix(".json")
    tuning = read_json(about, _About)
    text = about.read_text(encoding="utf-8")
    notices: list[str] = []
    runs = [run for file in record_files(path) for run in read_runs(file, notices.append)[0]]
    if not runs:
        raise ValueError(f"{path} holds no trials yet: wait for the first, or tune again")
    check_conditions([_apart(run) for run in runs], allow_mixed=allow_mixed)
    tuned = [_tuned(runs, space) for space in tuning.spaces]
    tuned.sort(key=lambda one: one.best.loss if one.best else math.inf)
    groups = tuple(one.group for one in tuned)
    return Results(tuple(tuned), tuning.trials, Comparison(groups, text, tuple(notices)))


@dataclass(frozen=True)
class _Optimizer:
    kind: str


@dataclass(frozen=True)
class _Space:
    optimizer: _Optimizer
    dimensions: tuple[dict[str, Any], ...]

    def __post_init__(self) -> None:
        """Refuses what is no dimension."""
        self.parsed()

    def parsed(self) -> tuple[Dimension, ...]:
        """The dimensions."""
        return tuple(from_json(fields, Dimension, "a dimension") for fields in self.dimensions)


@dataclass(frozen=True)
class _About:
    """What is read of a tuning's own file."""

    spaces: tuple[_Space, ...]
    trials: int


def _tuned(runs: Sequence[Run], space: _Space) -> Tuned:
    title = space.optimizer.kind
    dimensions = space.parsed()
    own = {_number(run): run for run in runs if run.record.optimizer == title.lower()}
    ended = tuple(_trial(own[number], dimensions) for number in sorted(own) if own[number].final)
    group = Group(title.lower(), title, tuple(own[number] for number in sorted(own)), cost=None)
    return Tuned(group, dimensions, ended)


def _trial(run: Run, dimensions: Sequence[Dimension]) -> Trial:
    assert run.final
    try:
        config = run.record.config["optimizer"]
        settings = {dimension.field: config[dimension.field] for dimension in dimensions}
    except (KeyError, TypeError):
        raise ValueError(
            f"{run.where}: the trial's settings are not there: it needs its `config`"
        ) from None
    if not run.evals:
        raise ValueError(f"{run.where}: the trial has no evaluation, and so no loss to start from")
    return Trial(_number(run), settings, run, run.final)


def _number(run: Run) -> int:
    name = re.fullmatch(r".+/(\d+)", run.record.name)
    if name is None:
        raise ValueError(
            f"{run.where}: {run.record.name!r} names no trial: expected <optimizer>/<number>"
        )
    return int(name[1])


def _apart(run: Run) -> Run:
    """The trial as of an optimizer of its own: trials share their seed and differ in settings."""
    record = run.record
    own = dataclasses.replace(record, optimizer=f"{record.optimizer}/{_number(run)}")
    return dataclasses.replace(run, record=own)
