"""Under which conditions optimizers were compared, and in what two comparisons differ."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from train.host import units
from train.optimizers.search_spaces import PAPERS_RATE
from train.records.lines import RunRecord


@dataclass(frozen=True)
class Conditions:
    """What all runs of one comparison share.

    Attributes:
        source: the text, as the data's configuration names it.
        fingerprint: of the data's manifest.
        model: its name.
        parameters: the model's.
        batch_size: sequences a step.
        context: tokens a sequence.
        steps: of each run.
        is_papers_rate: whether all optimizers have the papers' rate of 3e-4; else each has settings
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
