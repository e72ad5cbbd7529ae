"""What the report of a tuning is about: its trials, and the same runs as a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from train.host.typed_json import from_json
from train.optimizers.dimensions import Dimension
from train.records.tuning import TunedOptimizer, read_tuning
from train.report.comparison import ComparedRuns, Group


@dataclass(frozen=True)
class TuningResults:
    """The trials of a tuning.

    Attributes:
      tuned: The optimizers, the lowest loss first.
      planned: The number of trials of each optimizer.
      comparison: The same runs, grouped by optimizer.
    """

    tuned: tuple[TunedOptimizer, ...]
    planned: int
    comparison: ComparedRuns

    @property
    def ended(self) -> int:
        """The trials that have ended, of all optimizers together."""
        return sum(len(tuned.trials) for tuned in self.tuned)

    @property
    def ranked(self) -> tuple[TunedOptimizer, ...]:
        """The optimizers whose defaults have been tried: every budget begins with them."""
        return tuple(tuned for tuned in self.tuned if tuned.default)

    @property
    def budget(self) -> int:
        """The number of trials that all ranked optimizers have: the largest to rank them at."""
        return min((len(tuned.trials) for tuned in self.ranked), default=0)


def load_results(path: Path, *, allow_mixed: bool = False) -> TuningResults:
    """Reads a tuning, as `read_tuning` does.

    Raises:
      ValueError: If a dimension of a search space is none, or as `read_tuning` says.
    """
    records = read_tuning(path, allow_mixed=allow_mixed)
    try:
        for tuned in records.optimizers:
            search_space(tuned)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    groups = tuple(Group(tuned.key, tuned.title, tuned.runs, None) for tuned in records.optimizers)
    return TuningResults(
        tuned=records.optimizers,
        planned=records.planned,
        comparison=ComparedRuns(groups, records.about, records.notices),
    )


def search_space(tuned: TunedOptimizer) -> tuple[Dimension, ...]:
    """An optimizer's search space; a `ValueError` where it holds what is no dimension."""
    return tuple(from_json(fields, Dimension, "a dimension") for fields in tuned.dimensions)
