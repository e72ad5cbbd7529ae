"""A study's folder as its report sees it: comparisons under several conditions, and rate sweeps.

<part>.jsonl, or <part>/runs/...     a comparison each, as `train.report.comparison` reads it

What a part is, its records say: one in which every optimizer occurs once compares optimizers, and
an optimizer at three rates or more with nothing else changed is a sweep. Other parts, such as an
optimizer's ablations, do not concern this report; a tuning has one of its own.

Under which conditions optimizers were compared, and in what two comparisons differ.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.host import units
from train.records.lines import RunRecord
from train.records.tuning import is_tuning
from train.report.comparison import ComparedRuns, Group, load
from train.report.ladder import rungs
from train.report.papers import PAPERS_RATE


@dataclass(frozen=True)
class Conditions:
    """What all runs of one comparison share.

    Attributes:
      source: The text, as the data's configuration names it.
      fingerprint: Of the data's manifest.
      model: Its name.
      parameters: The model's.
      batch_size: Sequences a step.
      context: Tokens a sequence.
      steps: Of each run.
      is_papers_rate: Whether all optimizers have the papers' rate of 3e-4; else each has settings
        of its own.
    """

    source: str
    fingerprint: str
    model: str
    parameters: int
    batch_size: int
    context: int
    steps: int
    is_papers_rate: bool

    @property
    def tokens(self) -> int:
        """Training tokens of a run."""
        return self.steps * self.batch_size * self.context

    @property
    def settings(self) -> str:
        """How the optimizers are set, in a word."""
        return "3e-4" if self.is_papers_rate else "tuned"

    @property
    def place(self) -> str:
        """The text and the model's size."""
        return f"{text_name(self.source)}, {units.count(self.parameters)} parameters"

    @property
    def series(self) -> tuple[object, ...]:
        """What comparisons that differ in nothing but the number of steps have in common."""
        return (self.fingerprint, self.model, self.parameters, self.batch_size, self.context,
                self.is_papers_rate)  # fmt: skip

    @property
    def parts(self) -> dict[str, str]:
        """The conditions one by one, as a table names them."""
        return {
            "rate": self.settings,
            "text": text_name(self.source),
            "size": f"{units.count(self.parameters)} parameters",
            "tokens": f"{units.count(self.tokens)} tokens",
            "batch": f"{self.batch_size} × {self.context} a step",
        }

    def __str__(self) -> str:
        return f"{self.settings}, {self.place}, {units.count(self.tokens)} tokens"

    def differences(self, other: Conditions) -> list[str]:
        """In which of its parts the two differ."""
        differ = {
            "rate": self.is_papers_rate != other.is_papers_rate,
            "text": self.fingerprint != other.fingerprint,
            "size": (self.model, self.parameters) != (other.model, other.parameters),
            "tokens": self.tokens != other.tokens,
            "batch": (self.batch_size, self.context) != (other.batch_size, other.context),
        }
        return [part for part, differs in differ.items() if differs]


def conditions_of(runs: Iterable[RunRecord]) -> Conditions:
    """The conditions of runs that may stand in one table."""
    records = list(runs)
    first = records[0]
    return Conditions(
        source=first.data.source,
        fingerprint=first.data.fingerprint,
        model=first.model.name,
        parameters=first.model.parameters,
        batch_size=first.batch_size,
        context=first.context,
        steps=first.steps,
        is_papers_rate=all(is_papers_rate(run.learning_rate) for run in records),
    )


def is_papers_rate(rate: float) -> bool:
    """Whether a rate is the papers', however it was rounded on its way."""
    return math.isclose(rate, PAPERS_RATE, rel_tol=1e-3)


def text_name(source: str) -> str:
    """A text's short name.

    Example:
        >>> text_name("stdlib"), text_name("parquet:data/webmix/*.parquet")
        ('stdlib', 'webmix')
    """
    names = [part for part in re.split("[:/]", source) if part and "*" not in part]
    return names[-1] if names else source


_FEWEST_RATES = 3


@dataclass(frozen=True, eq=False)
class Contest:
    """Optimizers compared under one set of conditions; each group's key is its optimizer's."""

    conditions: Conditions
    comparison: ComparedRuns

    def group(self, key: str) -> Group | None:
        """An optimizer's runs, if it takes part."""
        return next((group for group in self.comparison.groups if group.key == key), None)


@dataclass(frozen=True, eq=False)
class Sweep:
    """One optimizer at several rates; the groups are in the order of their rates."""

    key: str
    title: str
    conditions: Conditions
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class StudyParts:
    """What the report is about.

    Attributes:
      contests: The largest comparison of each set of conditions; those at the papers' rate last,
        and those first that are at the most token budgets.
      sweeps: Of each optimizer.
      notices: What was passed over in reading.
    """

    contests: tuple[Contest, ...]
    sweeps: tuple[Sweep, ...]
    notices: tuple[str, ...]

    @property
    def groups(self) -> tuple[Group, ...]:
        """All groups of runs that the report uses."""
        contests = [group for contest in self.contests for group in contest.comparison.groups]
        return (*contests, *(group for sweep in self.sweeps for group in sweep.groups))


def read_study(folder: Path, *, allow_mixed: bool = False) -> StudyParts:
    """Reads all parts of a study's folder; one that cannot be read becomes a notice.

    Args:
      folder: Where the parts are.
      allow_mixed: Take a part in whose runs data, model, tokens, commit or settings differ.

    Raises:
      ValueError: If no part holds a comparison of optimizers or a sweep over rates.
    """
    packed = [path for path in folder.glob("*.jsonl") if not is_tuning(path)]
    comparisons, notices = [], []
    for path in sorted([*packed, *(runs.parent for runs in folder.glob("*/runs"))]):
        try:
            comparisons.append(load(path, allow_mixed=allow_mixed))
        except ValueError as error:
            notices.append(f"{path.name} is left out: {error}")
    study = study_of(comparisons, notices)
    if not study.groups:
        raise ValueError(
            f"{folder} holds no study: expected comparisons in it, each a file such as "
            "tokens-400.jsonl or a folder with runs, as `python -m train study` writes them"
            + "".join(f"; {notice}" for notice in notices)
        )
    return study


def is_study(folder: Path) -> bool:
    """Whether a folder's parts compare an optimizer under several conditions.

    No table may hold such parts together, so that they can only be reported as a study.
    """
    if not folder.is_dir() or is_tuning(folder) or (folder / "runs").exists():
        return False
    try:
        contests = read_study(folder).contests
    except ValueError:
        return False
    keys = [group.key for contest in contests for group in contest.comparison.groups]
    return len(set(keys)) < len(keys)


def study_of(comparisons: Iterable[ComparedRuns], notices: Iterable[str] = ()) -> StudyParts:
    """Sorts comparisons by what they are; a ladder is none of optimizers at their own settings."""
    comparisons = [one for one in comparisons if not rungs(one)]
    best: dict[Conditions, Contest] = {}
    for contest in filter(None, map(_contest, comparisons)):
        other = best.setdefault(contest.conditions, contest)
        if len(contest.comparison.runs) > len(other.comparison.runs):
            best[contest.conditions] = contest
    return StudyParts(
        contests=tuple(best[conditions] for conditions in _ordered(best)),
        sweeps=tuple(sweep for comparison in comparisons for sweep in _sweeps(comparison)),
        notices=(*notices, *(notice for one in comparisons for notice in one.notices)),
    )


def _optimizer(group: Group) -> tuple[str, str]:
    """Key and title of a group's optimizer, whatever the group itself is called.

    Records without a configuration have no more than the group's names: `lion-at-0.001` is Lion's.
    """
    kind = _settings(group).get("kind")
    if isinstance(kind, str):
        return kind.lower(), kind
    return group.key.split("-at-")[0], group.title.split(" at ")[0]


def _settings(group: Group) -> dict[str, Any]:
    settings = group.runs[0].record.config.get("optimizer")
    return settings if isinstance(settings, dict) else {}


def _contest(comparison: ComparedRuns) -> Contest | None:
    names = [_optimizer(group) for group in comparison.groups]
    if len({key for key, _ in names}) < max(2, len(names)):
        return None
    groups = tuple(
        dataclasses.replace(group, key=key, title=title)
        for group, (key, title) in zip(comparison.groups, names, strict=True)
    )
    conditions = conditions_of(run.record for run in comparison.runs)
    return Contest(conditions, dataclasses.replace(comparison, groups=groups))


def _sweeps(comparison: ComparedRuns) -> Iterator[Sweep]:
    """The optimizers at several rates; what else is set must be the same."""
    alike: dict[tuple[str, str, str], list[Group]] = {}
    for group in comparison.groups:
        rest = {name: value for name, value in _settings(group).items() if name != "learning_rate"}
        alike.setdefault((*_optimizer(group), json.dumps(rest, sort_keys=True)), []).append(group)
    for (key, title, _), groups in alike.items():
        if len(groups) >= _FEWEST_RATES:
            conditions = conditions_of(run.record for group in groups for run in group.runs)
            yield Sweep(key, title, conditions, tuple(sorted(groups, key=rate_of)))


def rate_of(group: Group) -> float:
    """The peak learning rate of a group's runs."""
    return group.runs[0].record.learning_rate


def _ordered(found: Iterable[Conditions]) -> list[Conditions]:
    every = list(found)
    budgets = Counter(one.series for one in every)
    return sorted(
        every,
        key=lambda one: (
            one.is_papers_rate,
            -budgets[one.series],
            one.parameters,
            one.fingerprint,
            one.tokens,
        ),
    )
