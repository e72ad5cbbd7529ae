"""How workers share the runs of an experiment: who holds the lock of a run's folder trains it.

A worker is a process that made the same call as the others, on the same machine or on another that
sees the folder. There is no server and no queue: each goes through the runs in their order, and
takes the first that has not ended and that nobody is at. The operating system releases the locks of
a process that dies, so another worker takes its run and goes on from its last checkpoint.

What several machines need of their file system: `flock` that excludes processes of all of them, and
files that are up to date once a lock was waited for. NFS 4, Lustre mounted with `flock`, GPFS and
CephFS have both; when a machine is lost they release its locks after their lease, a minute or two.
Lustre's `localflock` and NFS's `nolock` lock within a machine only: two machines may then train one
run at the same time, as they may where no file can be locked, which is said as a warning.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from train.config.comparison import Contestant
from train.config.run import Experiment, RunConfig
from train.host.files import locked
from train.inspection.out_of_memory import memory_explained
from train.records.lines import FinalRecord
from train.run.folder import (
    LOCK,
    TAKEN,
    BusyError,
    check_owner,
    finished,
    held,
    refuse_links,
    write_config,
)
from train.run.loop import Progress
from train.run.train import StuckError, train
from train.step.program import Program
from train.step.sharding import check_mesh
from train.tasks import Task, task_of

POLL_SECONDS = 1.0
"""Between two looks at runs that other workers are at."""


class Observer:
    """Told how far an experiment is, run by run; this one keeps it to itself."""

    def run_found(self, name: str, steps: int, final: FinalRecord) -> None:
        """A run has ended of which this worker has trained no step."""

    def run_started(self, name: str) -> None:
        """This worker begins a run, or goes on with it."""

    def run_progress(self, progress: Progress) -> None:
        """A step of the current run is done."""

    def run_ended(self, name: str, steps: int, final: FinalRecord) -> None:
        """The current run has ended, after fewer than its `steps` if it got stuck."""

    def costs_progress(self, done: int, rounds: int) -> None:
        """A round of the cost measurement is done."""


SILENT = Observer()


class SharedRun(NamedTuple):
    """A run that any of the workers may train."""

    name: str
    folder: Path
    config: RunConfig
    contestant: Contestant | None = None
    """What its records call the optimizer; by default the optimizer's own name."""


def claim_experiment(path: Path, experiment: Experiment) -> Task:
    """Writes what the runs of a folder are for, or checks that the folder is for the same.

    Args:
      path: The file that says it, in the experiment's folder, which is made if missing.
      experiment: What it says.

    Returns:
      What the runs train, its data prepared.

    Raises:
      ValueError: If the folder holds another experiment or a link, or the configuration does not
        fit the data or the devices.
    """
    check_owner(path, experiment)
    check_mesh(experiment)
    task = task_of(experiment)
    task.data()
    path.parent.mkdir(parents=True, exist_ok=True)
    refuse_links(path.parent)
    with locked(path.parent / LOCK):  # Another worker may have come at the same moment.
        check_owner(path, experiment)
        write_config(path, experiment)
    return task


def share_out(
    groups: Sequence[Sequence[SharedRun]],
    train_group: Callable[[Sequence[SharedRun]], None],
    observer: Observer,
) -> None:
    """Trains what others do not; returns when all runs have ended, whoever trained them.

    Args:
      groups: Runs that one worker trains at a time, mostly of one run, in the order in which they
        are to be begun.
      train_group: Trains those runs of a group to their ends that have not ended already.
      observer: Told of every run.
    """
    ahead = list(groups)
    while ahead:
        for group in ahead:
            if _is_over(group, train_group, observer):
                ahead.remove(group)
                break  # To the first again: its worker may have died meanwhile.
        else:
            time.sleep(POLL_SECONDS)


def _is_over(
    group: Sequence[SharedRun],
    train_group: Callable[[Sequence[SharedRun]], None],
    observer: Observer,
) -> bool:
    """Whether the runs of a group have ended, if need be by training them; False if it is taken."""
    first, *others = group
    if len(_ended(group)) < len(group):
        try:
            with ExitStack() as stack:
                for run in group:
                    stack.enter_context(held(run.folder, TAKEN))
                if len(_ended(group)) < len(group):  # Its last worker may just have let go of it.
                    observer.run_started(
                        first.name + (f" and {len(others)} more" if others else "")
                    )
                    with memory_explained(first.config):
                        train_group(group)
                    observer.run_ended(first.name, first.config.steps, _ended([first])[0])
                    group = others  # Trained in the same steps, which the observer has seen once.
        except BusyError:
            return False
    for run, final in zip(group, _ended(group), strict=True):
        observer.run_found(run.name, run.config.steps, final)
    return True


def train_alone(
    run: SharedRun, task: Task, observer: Observer, *, program: Program | None = None
) -> None:
    """Trains one run to its end; one that diverged has ended too, and raises nothing."""
    with suppress(StuckError):
        train(
            run.config,
            run.folder,
            contestant=run.contestant,
            program=program,
            task=task,
            on_progress=observer.run_progress,
        )


def _ended(group: Sequence[SharedRun]) -> list[FinalRecord]:
    """The last records of those runs that have ended, however."""
    finals = (finished(run.folder, run.config) for run in group)
    return [final for final in finals if final is not None]
