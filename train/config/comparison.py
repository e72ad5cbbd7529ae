"""What a comparison is: an experiment, who takes part, and on how many seeds.

A contestant is an optimizer's settings under a name of their own, so that two settings of one
method, such as Aardvark with and without its clip, can stand in one table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import tyro

from train.config.run import Experiment, RunConfig, require
from train.optimizers import AnyOptimizer

_LONGEST = 100
"""Letters of a folder's name; file systems take 255 bytes, of which a seed needs some."""


@dataclass(frozen=True)
class Contestant:
    """An optimizer and what tables call it.

    Args:
      optimizer: Its settings.
      title: What tables call it; by default the optimizer's class.
      after: In a ladder, the name of the contestant that it differs from in one thing.

    Raises:
      ValueError: If the title has nothing to name a folder by.

    Example:
      >>> from train.optimizers import AdamW
      >>> Contestant(AdamW()).name, Contestant(AdamW(clip=None), "AdamW, no clip").name
      ('adamw', 'adamw-no-clip')
    """

    optimizer: AnyOptimizer
    title: str = ""
    after: str = ""

    def __post_init__(self) -> None:
        if not self.title:
            object.__setattr__(self, "title", type(self.optimizer).__name__)
        if not 0 < len(self.name) <= _LONGEST:
            raise ValueError(
                f"the title {self.title!r:.80} is not allowed: it names a folder, so it needs a "
                f"letter or digit of a-z and 0-9, and {_LONGEST} at most."
            )

    @property
    def name(self) -> str:
        """The title as folders, records and the command line have it, such as `adamw-no-clip`."""
        return re.sub(r"[^a-z0-9.]+", "-", self.title.lower()).strip("-.")


class Entry(NamedTuple):
    """One run of a comparison: whose it is, and what is run."""

    contestant: Contestant
    config: RunConfig

    @property
    def name(self) -> str:
        """Its folder, such as `adamw-s0`."""
        return f"{self.contestant.name}-s{self.config.seed}"


@dataclass(frozen=True, kw_only=True)
class Comparison(Experiment):
    """The same experiment for several optimizers and seeds; within a seed all else is equal."""

    contestants: Annotated[tuple[Contestant, ...], tyro.conf.Suppress]
    """The first, AdamW, is the baseline that the others are measured against."""
    seeds: int = 2
    """Each seed gives every optimizer the same initial parameters and the same batches."""
    cost_rounds: int = 9
    """Rounds in which the optimizers' steps are timed in turn; 0 measures no costs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.seeds >= 1, "seeds", self.seeds, "at least 1")
        rounds = self.cost_rounds
        require(rounds == 0 or rounds >= 3, "cost_rounds", rounds, "at least 3, or 0 for no costs")
        names = [contestant.name for contestant in self.contestants]
        require(len(set(names)) == len(names), "contestants", names, "one of each name")
        self.runs()  # Each checks its own optimizer.

    def runs(self) -> list[Entry]:
        """All runs, every contestant on a seed before the next seed, so that stopping is fair."""
        return [
            Entry(contestant, RunConfig(optimizer=contestant.optimizer, seed=seed, **self.terms))
            for seed in range(self.seeds)
            for contestant in self.contestants
        ]
