"""A tuning's folder as its report sees it: the trials of each optimizer that have ended.

tuning.json                 what was tuned: the search spaces, the number of trials
trials/<optimizer>/<number>/config.json, records.jsonl
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from train.records import EvalRecord, FinalRecord, RunRecord, StepRecord, read_records
from train.report.comparison import Comparison, Group, Run
from train.report.conditions import check_conditions
from train.tuning.dimensions import Dimension, from_dict


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


def load_results(folder: Path, *, allow_mixed: bool = False) -> Results:
    """Reads a tuning's folder, finished or not.

    Raises:
        ValueError: there is no tuning or no trial, or the trials are of different conditions.
        RecordError: a record cannot be read.
    """
    about = folder / "tuning.json"
    if not about.exists():
        raise ValueError(f"{folder} holds no tuning: `python -m train tune` makes one")
    text = about.read_text(encoding="utf-8")
    tuning = json.loads(text)
    notices: list[str] = []
    tuned = [_tuned(folder / "trials", space, notices.append) for space in tuning["spaces"]]
    if not any(one.group.runs for one in tuned):
        raise ValueError(f"{folder} holds no trials yet: wait for the first, or tune again")
    check_conditions(
        [_named_apart(run, number) for one in tuned for number, run in enumerate(one.group.runs)],
        allow_mixed=allow_mixed,
    )
    tuned.sort(key=lambda one: one.best.loss if one.best else math.inf)
    groups = tuple(one.group for one in tuned)
    return Results(tuple(tuned), tuning["trials"], Comparison(groups, text, tuple(notices)))


def _tuned(trials: Path, space: dict[str, Any], notice: Callable[[str], None]) -> Tuned:
    name = space["optimizer"]["kind"].lower()
    dimensions = tuple(from_dict(dimension) for dimension in space["dimensions"])
    runs: list[Run] = []
    ended: list[Trial] = []
    for path in sorted(
        trials.glob(f"{name}/[0-9]*/records.jsonl"), key=lambda p: int(p.parent.name)
    ):
        run = _run(path, notice)
        if run is None:
            notice(f"{path}: left out, its first record is not written yet")
            continue
        runs.append(run)
        if run.final:
            config = json.loads((path.parent / "config.json").read_text())["optimizer"]
            settings = {dimension.field: config[dimension.field] for dimension in dimensions}
            ended.append(Trial(int(path.parent.name), settings, run, run.final))
    group = Group(name, space["optimizer"]["kind"], tuple(runs), cost=None)
    return Tuned(group, dimensions, tuple(ended))


def _run(path: Path, notice: Callable[[str], None]) -> Run | None:
    records = read_records(path, notice=notice)
    first = next((line for line in records if isinstance(line, RunRecord)), None)
    if first is None:
        return None
    return Run(
        record=dataclasses.replace(first, name=f"{first.optimizer}/{path.parent.name}"),
        steps=tuple(line for line in records if isinstance(line, StepRecord)),
        evals=tuple(line for line in records if isinstance(line, EvalRecord)),
        final=next((line for line in records if isinstance(line, FinalRecord)), None),
    )


def _named_apart(run: Run, number: int) -> RunRecord:
    """The trial's record as of an optimizer of its own: trials share seeds and differ in rates."""
    return dataclasses.replace(run.record, optimizer=f"{run.record.optimizer}/{number}")
