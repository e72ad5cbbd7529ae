"""A comparison as the report sees it: runs grouped by optimizer, and their costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from train.host import units
from train.records.files import record_files
from train.records.lines import CostRecord, FinalRecord
from train.records.runs import Run, check_conditions, read_runs
from train.report.statistics import Estimate, estimate, paired_difference

__all__ = ["BASELINE", "ComparedRuns", "Group", "Run", "diverged", "load"]

BASELINE = "adamw"  # the optimizer that differences and ratios are taken to


def diverged(runs: int, of: int | None = None) -> str:
    """How many runs diverged, in words; empty if none has."""
    total = "" if of is None else f" of {of}"
    return f"{runs}{total} diverged" if runs else ""


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

    @property
    def val_loss(self) -> Estimate | None:
        """Mean validation loss of the finished runs."""
        return self.over_seeds(lambda final: final.val_loss)

    @property
    def divergence(self) -> str:
        """How many runs diverged, in words; empty if none has."""
        ended = len(self.finished) + len(self.diverged)
        return diverged(len(self.diverged), ended)

    def over_seeds(self, value: Callable[[FinalRecord], float]) -> Estimate | None:
        """A final number's mean over the finished runs; None when there are none."""
        values = [value(final) for final in self.finals.values()]
        return estimate(values) if values else None

    def loss_difference(self, other: Group) -> Estimate | None:
        """This optimizer's validation loss minus the other's, paired by seed."""
        return paired_difference(self.losses, other.losses)


@dataclass(frozen=True)
class ComparedRuns:
    """What the report is about.

    Attributes:
      groups: The optimizers; the best mean validation loss first, then those of which a run
        diverged, then those of which none has finished.
      about: The text of comparison.json, or None.
      notices: What was passed over in reading.
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


def load(*paths: Path, allow_mixed: bool = False) -> ComparedRuns:
    """Reads the runs of one table.

    Args:
      paths: Folders of comparisons or of single runs, files of many runs, or folders of those;
        all of their runs together make the table.
      allow_mixed: Take runs of different data, model, tokens, commit or settings into it.

    Raises:
      ValueError: If there are no runs, two have the same optimizer and seed, or they are mixed.
      RecordError: If a record cannot be read.
    """
    notices: list[str] = []
    runs: dict[str, list[Run]] = {}
    costs: list[tuple[Path, CostRecord]] = []
    for file in dict.fromkeys(file for path in paths for file in record_files(path)):
        found, measured = read_runs(file, notices.append)
        costs += [(file, cost) for cost in measured]
        for run in found:
            runs.setdefault(run.record.optimizer, []).append(run)
    if not runs:
        raise ValueError(
            f"{units.listing([str(path) for path in paths]) or 'no path'} holds no runs: expected "
            "runs/<optimizer>-s<seed>/records.jsonl, as `python -m train compare` writes them, or "
            "files of records"
        )
    check_conditions([run for own in runs.values() for run in own], allow_mixed=allow_mixed)
    cost_of = _first_costs(costs, notices.append)
    groups = [
        Group(key, own[0].record.title, tuple(own), cost_of.get(key))
        for key, own in sorted(runs.items())
    ]
    return ComparedRuns(
        groups=tuple(sorted(groups, key=_rank)),
        about=_about(paths),
        notices=tuple(notices),
    )


def _first_costs(
    costs: Iterable[tuple[Path, CostRecord]], notice: Callable[[str], None]
) -> dict[str, CostRecord]:
    """One cost record for each optimizer: ratios of two sessions have no common measure."""
    first: dict[str, tuple[Path, CostRecord]] = {}
    for file, cost in costs:
        used, _ = first.setdefault(cost.optimizer, (file, cost))
        if used != file:
            notice(f"{file}: its cost of {cost.title} is left out, that of {used} is shown")
    return {key: cost for key, (_, cost) in first.items()}


def _about(paths: tuple[Path, ...]) -> str | None:
    about = paths[0] / "comparison.json"
    if len(paths) > 1 or not about.exists():
        return None
    return about.read_text(encoding="utf-8", errors="replace")


def _rank(group: Group) -> tuple[bool, bool, float]:
    loss = group.val_loss
    return loss is None, bool(group.diverged), loss.mean if loss else 0.0
