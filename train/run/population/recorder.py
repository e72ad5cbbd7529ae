"""A population's records: for each member the lines of a run of its own, in its own folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from train.config.run import RunConfig
from train.data import Dataset
from train.records.lines import FinalRecord
from train.run.folder import RECORDS
from train.run.population.program import PopulationProgram
from train.run.recorder import Recorder
from train.run.training_clock import Spent


class PopulationRecorder:
    """Writes the lines of all members that have not ended.

    A member's seconds are its share of the population's.

    Args:
      configs: The members.
      folders: Their folders.
      dataset: Their data.
      finals: The final record of each member that has ended already; its records stay as they are.
      after_step: The step that training goes on from; later lines are dropped, to be written again.

    Raises:
      ValueError: If a member lacks the records of the steps before.
    """

    def __init__(
        self,
        configs: Sequence[RunConfig],
        folders: Sequence[Path],
        dataset: Dataset,
        finals: Sequence[FinalRecord | None],
        after_step: int,
    ) -> None:
        self._finals = list(finals)
        self._recorders: dict[int, Recorder] = {}
        for member, (config, folder) in enumerate(zip(configs, folders, strict=True)):
            if self._finals[member] is None:
                self._recorders[member] = Recorder(folder / RECORDS, config, dataset, after_step)

    @property
    def running(self) -> list[int]:
        """The members that have not ended."""
        return [member for member, final in enumerate(self._finals) if final is None]

    @property
    def empty(self) -> list[int]:
        """The members of which nothing has been recorded yet."""
        return [member for member in self.running if self._recorders[member].empty]

    def unevaluated(self, step: int) -> list[int]:
        """The running members whose validation loss after a step is not recorded."""
        return [m for m in self.running if not self._recorders[m].has_evaluated(step)]

    @property
    def finals(self) -> list[FinalRecord]:
        """The members' last records, once all have ended."""
        return [final for final in self._finals if final is not None]

    def start(self, members: Iterable[int]) -> None:
        """The first line of some members."""
        for member in members:
            self._recorders[member].start()

    def step(self, members: Iterable[int], step: int, metrics: Any, seconds: float) -> None:
        """A training step of some members, from the metrics of all."""
        for member, own in _own(members, metrics):
            self._recorders[member].step(step, own, self._share(seconds))

    def stands_out(self, member: int, loss: float, *, skipped: bool) -> bool:
        """Whether a member's step is one to be recorded by `spike`; to be asked of every step."""
        return self._recorders[member].stands_out(loss, skipped=skipped)

    def spike(self, members: Iterable[int], step: int, metrics: Any, seconds: float) -> None:
        """A step of the members of which it stands out, from the metrics of all."""
        for member, own in _own(members, metrics):
            self._recorders[member].spike(step, own, self._share(seconds))

    def evaluation(
        self, members: Iterable[int], step: int, losses: np.ndarray, seconds: float
    ) -> None:
        """The validation loss of some members, from that of all."""
        for member in members:
            loss = float(losses[member])
            self._recorders[member].evaluation(step, loss, self._share(seconds))

    def end(
        self, members: Iterable[int], step: int, program: PopulationProgram, spent: Spent
    ) -> None:
        """The last line of some members."""
        for member in members:
            share = Spent(*map(self._share, spent))
            self._finals[member] = self._recorders[member].final(step, program, share)

    def sync(self) -> None:
        """Waits until all lines are on the disk."""
        for member in self.running:
            self._recorders[member].sync()

    def close(self) -> None:
        """Closes the files."""
        for recorder in self._recorders.values():
            recorder.close()

    def _share(self, seconds: float) -> float:
        return seconds / len(self._finals)


def _own(members: Iterable[int], metrics: Any) -> Iterator[tuple[int, Any]]:
    """Some members, each with its metrics."""
    host = jax.device_get(metrics)
    for member in members:
        yield member, jax.tree.map(lambda values, member=member: values[member], host)
