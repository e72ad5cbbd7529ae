"""A worker: it asks for trials, trains them and reports their losses, until all are done.

<folder>/tuning.json              what is tuned, on what
<folder>/journal.log              Optuna's: who does which trial, and the losses
<folder>/trials/lion/3/           one trial: configuration and records, as of any run
<folder>/workers/                 a sign of life of each worker

Any number of workers, on any machines that see the folder, make the same call and share the trials.

How the trials of a batch are trained: one after the other, or together as a population.

Of each trial the records stay. Its checkpoints go when it has ended: of all trials together they
would fill the disk.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from train.cli.progress import RunDisplay
from train.config.plain import config_hash
from train.config.run import RunConfig
from train.experiments.queue import STALE_AFTER, TUNING, Heartbeat, OverdueError, TrialQueue
from train.experiments.tuning import Tuning
from train.host.disk import disk_explained
from train.records.lines import FinalRecord
from train.run.folder import CHECKPOINTS, check_owner, finished, refuse_links
from train.run.loop import Progress
from train.run.population import populations, train_population
from train.run.train import StuckError, train
from train.step.sharding import check_mesh
from train.tasks import Task, task_of


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
      task: What the runs train.
    """

    def __init__(self, task: Task) -> None:
        self._task = task

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
            return train(config, folder, task=self._task, on_progress=progress)
        except StuckError as error:  # A diverged trial is a result.
            return error.final


class Together:
    """As populations, each with one compiled program: the faster, the smaller the model.

    Args:
      task: What the runs train.
    """

    def __init__(self, task: Task) -> None:
        self._task = task

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
            task=self._task,
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


_POLL = 1.0
"""Seconds between two looks at what other workers do."""


def tune(
    tuning: Tuning,
    folder: Path,
    display: RunDisplay,
    *,
    population: int = 1,
    train_all: TrainAll | None = None,
    stale_after: float = STALE_AFTER,
) -> None:
    """Does what is still missing of a tuning, together with whoever else makes the same call.

    It ends when every trial is finished, and takes over those of workers that have died.

    Args:
      tuning: What to tune.
      folder: Where it goes; holds this tuning's earlier work, or nothing.
      display: Told of every trial and step.
      population: Trials that are trained at a time; they are of one optimizer.
      train_all: Trains them; by default `Together`, or `OneByOne` where the population is 1.
      stale_after: Seconds after which a silent worker counts as dead; the same for all workers.

    Raises:
      ValueError: If the folder holds another tuning or a link, the configuration does not fit the
        data or the devices, or the population has no members.
      Interrupted: If a signal asked to stop; the same call goes on from there.
      DiskError: If there is no room; likewise.
    """
    if population < 1:
        raise ValueError(f"population={population} is not allowed: it must be at least 1.")
    check_owner(folder / TUNING, tuning)
    check_mesh(tuning)
    task = task_of(tuning)
    task.data()
    folder.mkdir(parents=True, exist_ok=True)
    refuse_links(folder)
    if train_all is None:
        train_all = OneByOne(task) if population == 1 else Together(task)
    shown: set[str] = set()
    with disk_explained(folder):
        while True:
            try:
                with Heartbeat(folder / "workers", stale_after) as heartbeat:
                    queue = TrialQueue(folder, tuning, heartbeat)
                    return _work(queue, display, shown, train_all, heartbeat.check, population)
            except OverdueError:  # The machine was asleep: it goes on as a new worker.
                continue


def _work(
    queue: TrialQueue,
    display: RunDisplay,
    shown: set[str],
    train_all: TrainAll,
    check: Callable[[], None],
    population: int,
) -> None:
    _show_finished(queue, display, shown)
    while not queue.is_done:
        tasks = queue.take(population)
        if not tasks:
            time.sleep(_POLL)
            continue
        configs, folders = [task.config for task in tasks], [task.folder for task in tasks]
        try:
            finals = train_all(configs, folders, display=display, check=check)
        except BaseException:
            queue.give_back(tasks)
            raise
        for task, final in zip(tasks, finals, strict=True):
            queue.finish(task, math.inf if final.diverged else final.val_loss)
        shown.update(task.name for task in tasks)  # By `train_all`.
        _show_finished(queue, display, shown)


def _show_finished(queue: TrialQueue, display: RunDisplay, shown: set[str]) -> None:
    """Shows the trials that others have finished, or an earlier call, and remembers them."""
    for task in queue.finished():
        if task.name not in shown:
            shown.add(task.name)
            final = finished(task.folder, task.config)
            if final is not None:
                display.run_found(task.name, task.config.steps, final)
