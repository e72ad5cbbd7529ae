"""How the trials of a batch are trained: one after the other, or together as a population.

Of each trial the records stay. Its checkpoints go when it has ended: of all trials together they
would fill the disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from train.cli.progress import RunDisplay
from train.config.run import RunConfig, config_hash
from train.data import Dataset
from train.progress import Progress
from train.records.lines import FinalRecord
from train.run.folder import CHECKPOINTS
from train.run.loop import train
from train.run.nonfinite_run import StuckError
from train.run.population import populations, train_population


class TrainAll(Protocol):
    """Trains several runs of one optimizer to their ends.

    Args:
      configs: The runs; they differ in the numbers of their optimizer.
      folders: Where each goes; holds an earlier call's unfinished work, or nothing.
      display: Told of every run and step.
      check: To be called between steps; raises if the runs are no longer this worker's.

    Returns:
      Each run's last record. A run that got stuck has diverged, and raises nothing.
    """

    def __call__(  # noqa: D102 - described above
        self,
        configs: Sequence[RunConfig],
        folders: Sequence[Path],
        *,
        display: RunDisplay,
        check: Callable[[], None],
    ) -> Sequence[FinalRecord]: ...


class OneByOne:
    """Each with `train.run.loop.train`.

    Args:
      dataset: The runs' open data set.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __call__(
        self,
        configs: Sequence[RunConfig],
        folders: Sequence[Path],
        *,
        display: RunDisplay,
        check: Callable[[], None],
    ) -> list[FinalRecord]:
        """As `TrainAll` says."""
        finals = []
        for config, folder in zip(configs, folders, strict=True):
            name = f"{folder.parent.name}/{folder.name}"
            display.run_started(name)
            final = self._train(config, folder, display, check)
            display.run_ended(name, config.steps, final)
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
            finals.append(final)
        return finals

    def _train(
        self, config: RunConfig, folder: Path, display: RunDisplay, check: Callable[[], None]
    ) -> FinalRecord:
        progress = _shown(display, check)
        try:
            return train(config, folder, dataset=self._dataset, on_progress=progress)
        except StuckError as error:  # A diverged trial is a result.
            return error.final


class Together:
    """As populations, each with one compiled program: the faster, the smaller the model.

    Args:
      dataset: The runs' open data set.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __call__(
        self,
        configs: Sequence[RunConfig],
        folders: Sequence[Path],
        *,
        display: RunDisplay,
        check: Callable[[], None],
    ) -> list[FinalRecord]:
        """As `TrainAll` says."""
        finals: dict[int, FinalRecord] = {}
        for members in populations(configs, len(configs)):
            ended = self._train(
                [configs[member] for member in members],
                [folders[member] for member in members],
                display,
                check,
            )
            finals.update(zip(members, ended, strict=True))
        return [finals[member] for member in range(len(configs))]

    def _train(
        self,
        configs: list[RunConfig],
        folders: list[Path],
        display: RunDisplay,
        check: Callable[[], None],
    ) -> list[FinalRecord]:
        names = [f"{folder.parent.name}/{folder.name}" for folder in folders]
        checkpoints = folders[0].parent / f"population-{config_hash(tuple(configs))}"
        display.run_started(f"{names[0]} and {len(names) - 1} more")
        finals = train_population(
            configs,
            folders,
            checkpoints=checkpoints,
            dataset=self._dataset,
            on_progress=_shown(display, check),
        )
        shutil.rmtree(checkpoints, ignore_errors=True)
        # The bar has gone forward by one run: the others' steps are not ahead of it any more.
        first, *others = zip(names, finals, strict=True)
        display.run_ended(first[0], configs[0].steps, first[1])
        for name, final in others:
            display.run_found(name, configs[0].steps, final)
        return finals


def _shown(display: RunDisplay, check: Callable[[], None]) -> Callable[[Progress], None]:
    def on_progress(progress: Progress) -> None:
        check()
        display.run_progress(progress)

    return on_progress
