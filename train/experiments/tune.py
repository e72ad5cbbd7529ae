"""A worker: it asks for trials, trains them and reports their losses, until all are done.

<folder>/tuning.json              what is tuned, on what
<folder>/journal.log              Optuna's: who does which trial, and the losses
<folder>/trials/lion/3/           one trial: configuration and records, as of any run
<folder>/workers/                 a sign of life of each worker

Any number of workers, on any machines that see the folder, make the same call and share the trials.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from train.cli.progress import RunDisplay
from train.data import open_dataset
from train.experiments.queue import TUNING, TrialQueue
from train.experiments.tuning import Tuning
from train.host.disk import disk_explained
from train.run.folder import check_owner, finished, refuse_links
from train.step.sharding import check_mesh
from train.tasks.vocabulary import check_vocabulary
from train.tuning.heartbeat import STALE_AFTER, Heartbeat, OverdueError
from train.tuning.trainers import OneByOne, Together, TrainAll

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
    dataset = open_dataset(tuning.data)
    check_vocabulary(tuning, dataset)
    folder.mkdir(parents=True, exist_ok=True)
    refuse_links(folder)
    if train_all is None:
        train_all = OneByOne(dataset) if population == 1 else Together(dataset)
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
