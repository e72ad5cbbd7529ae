"""Who does which trial: one Optuna study for each optimizer, in a journal that workers share.

A trial is waiting, running (at a named worker) or finished; what a dead worker was running fails
and waits again. Every change is made alone, under a lock that its holder's death does not keep.

How workers on any machine know that one of them is gone: a file that each keeps touching.

Optuna's journal has no heartbeat of its own. Times are the file system's, so that the machines'
clocks need not agree.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from train.config.run import RunConfig
from train.experiments.tuning import Tuning
from train.host.typed_json import from_json
from train.optimizers.dimensions import Choices, Dimension, LogUniform
from train.records.files import TUNING
from train.run.folder import check_owner, write_config

# Twice as long as network file systems may show an old time of a file (60 s).
STALE_AFTER = 120.0


class OverdueError(RuntimeError):
    """This worker was silent for so long that others may have taken its trials over."""


class Heartbeat:
    """A sign of life while the context is open.

    Args:
      folder: Where the workers' files are.
      stale_after: Seconds without a beat after which a worker counts as gone.

    Attributes:
      name: This worker's, unlike any other's.
    """

    def __init__(self, folder: Path, stale_after: float = STALE_AFTER) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._folder, self._stale_after = folder, stale_after
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, daemon=True)

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._last = time.time()
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        (self._folder / self.name).unlink(missing_ok=True)

    def is_alive(self, worker: str) -> bool:
        """Whether a worker has given a sign of life of late."""
        self._beat()
        try:
            theirs = (self._folder / Path(worker).name).stat().st_mtime
        except FileNotFoundError:
            return False
        return (self._folder / self.name).stat().st_mtime - theirs < self._stale_after

    def check(self) -> None:
        """To be called between steps.

        Raises:
          OverdueError: If the process was suspended for longer than a worker may be silent.
        """
        silent = time.time() - self._last
        if silent > self._stale_after:
            raise OverdueError(f"silent for {silent:.0f} s: others may have taken over")

    def _beat(self) -> None:
        # Who was taken for dead must not come back to life: an overdue worker never beats again.
        self.check()
        (self._folder / self.name).touch()
        self._last = time.time()

    def _keep_beating(self) -> None:
        while not self._stopped.wait(self._stale_after / 12):
            try:
                self._beat()
            except OverdueError:
                return


JOURNAL = "journal.log"
_NUMBER, _WORKER = "number", "worker"
_ALIVE = (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE)


class Task(NamedTuple):
    """A trial that this worker is to do."""

    optimizer: str
    number: int
    attempt: int
    """Optuna's number: a trial that failed with its worker gets a new one."""
    config: RunConfig
    folder: Path

    @property
    def name(self) -> str:
        """Such as `lion/3`."""
        return f"{self.optimizer}/{self.number}"


class TrialQueue:
    """The trials of a tuning, each done once.

    Args:
      folder: The tuning's; what it lacks is made.
      tuning: The same for all workers.
      heartbeat: This worker's sign of life, and how it sees the others'.

    Raises:
      ValueError: If the folder holds another tuning, or its journal is damaged.
    """

    def __init__(self, folder: Path, tuning: Tuning, heartbeat: Heartbeat) -> None:
        self._folder, self._heartbeat = folder, heartbeat
        self._runs = tuning.runs()
        self._lock = JournalFileSymlinkLock(str(folder / "queue"))
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self._alone():
            check_owner(folder / TUNING, tuning)
            write_config(folder / TUNING, tuning)
            self._studies = _opened(folder / JOURNAL, self._runs)
            self._distributions = {
                space.optimizer.key: {d.field: _distribution(d) for d in space.dimensions}
                for space in tuning.spaces
            }

    def take(self, count: int = 1) -> list[Task]:
        """Up to `count` trials of one optimizer, for this worker to do.

        Every optimizer's trial k goes before trial k + 1 of any, so that stopping is fair. Empty
        when none is waiting: all are finished, or at other workers.
        """
        with self._alone():
            self._fail(self._abandoned())
            self._fill()
            waiting = {name: self._in_state(name, TrialState.WAITING) for name in self._studies}
            first = {name: min(map(_number, found)) for name, found in waiting.items() if found}
            if not first:
                return []
            name = min(first, key=first.__getitem__)
            return [self._ask(name) for _ in range(min(count, len(waiting[name])))]

    def finish(self, task: Task, loss: float) -> None:
        """Reports a trial's loss, in nats a token; infinite if it diverged."""
        with self._alone():
            self._studies[task.optimizer].tell(task.attempt, loss, skip_if_finished=True)

    def give_back(self, tasks: Sequence[Task]) -> None:
        """Lets others do trials that this worker has begun; a finished one stays finished."""
        mine = {(task.optimizer, task.attempt) for task in tasks}
        with self._alone():
            running = self._running()
            self._fail([(name, one) for name, one in running if (name, one.number) in mine])
            self._fill()

    def finished(self) -> list[Task]:
        """The trials that are done, by whichever worker."""
        return [
            self._task(name, trial)
            for name in self._studies
            for trial in self._in_state(name, TrialState.COMPLETE)
        ]

    @property
    def is_done(self) -> bool:
        """Whether every trial is finished."""
        return len(self.finished()) == sum(map(len, self._runs.values()))

    def _fill(self) -> None:
        """Adds the trials that are missing, or that have failed with their worker."""
        for name, runs in self._runs.items():
            known = {_number(trial) for trial in self._in_state(name, *_ALIVE)}
            for number in range(len(runs)):
                if number not in known:
                    self._add(name, number)

    def _add(self, name: str, number: int) -> None:
        optimizer, distributions = self._runs[name][number].optimizer, self._distributions[name]
        trial = optuna.create_trial(
            state=TrialState.WAITING,
            params={field: getattr(optimizer, field) for field in distributions},
            distributions=distributions,
            user_attrs={_NUMBER: number},
        )
        self._studies[name].add_trial(trial)

    def _ask(self, name: str) -> Task:
        trial = self._studies[name].ask()
        trial.set_user_attr(_WORKER, self._heartbeat.name)
        return self._task(name, trial)

    def _task(self, name: str, trial: optuna.Trial | FrozenTrial) -> Task:
        number = _number(trial)
        folder = self._folder / "trials" / name / str(number)
        return Task(name, number, trial.number, self._runs[name][number], folder)

    def _fail(self, trials: Sequence[tuple[str, FrozenTrial]]) -> None:
        for name, trial in trials:
            self._studies[name].tell(trial.number, state=TrialState.FAIL)

    def _abandoned(self) -> list[tuple[str, FrozenTrial]]:
        # A worker that died between asking and signing leaves a trial without its name.
        return [
            (name, trial)
            for name, trial in self._running()
            if not self._heartbeat.is_alive(trial.user_attrs.get(_WORKER, "nobody"))
        ]

    def _running(self) -> list[tuple[str, FrozenTrial]]:
        return [
            (name, trial)
            for name in self._studies
            for trial in self._in_state(name, TrialState.RUNNING)
        ]

    def _in_state(self, name: str, *states: TrialState) -> list[FrozenTrial]:
        return self._studies[name].get_trials(deepcopy=False, states=states)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._lock.acquire()
        try:
            _cut_torn_line(self._folder / JOURNAL)
            yield
        finally:
            self._lock.release()


def _opened(journal: Path, runs: dict[str, tuple[RunConfig, ...]]) -> dict[str, optuna.Study]:
    """The studies in a journal, each with trials that are of the tuning."""
    try:
        storage = JournalStorage(JournalFileBackend(str(journal)))
        studies = {
            name: optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
            for name in runs
        }
        for name, study in studies.items():
            if study.directions != [StudyDirection.MINIMIZE]:
                raise ValueError(f"{name} is not tuned for one loss")
            for trial in study.get_trials(deepcopy=False):
                _check(trial, len(runs[name]))
        return studies
    except OSError:
        raise
    except Exception as error:  # Optuna trusts what it reads.
        raise ValueError(
            f"{journal} is damaged ({error!r:.200}): delete it. Trials that have ended are not "
            "trained again."
        ) from error


def _check(trial: FrozenTrial, count: int) -> None:
    # Not too deep for Optuna, which copies it level by level.
    told = [trial.values, trial.params, trial.user_attrs, trial.system_attrs]
    from_json([*told, trial.intermediate_values], Any, "a trial")
    number, worker = _number(trial), trial.user_attrs.get(_WORKER, "")
    if type(number) is not int or not 0 <= number < count:
        raise ValueError(f"a trial has the number {number!r:.80}")
    if not re.fullmatch(r"[\w.-]{0,200}", worker):
        raise ValueError(f"a worker is called {worker!r:.80}")


def _cut_torn_line(journal: Path) -> None:
    """Drops what a writer left that was killed, or had no room: the next line would go on it."""
    if journal.exists():
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(journal, whole)


def _number(trial: optuna.Trial | FrozenTrial) -> int:
    return trial.user_attrs[_NUMBER]


def _distribution(dimension: Dimension) -> BaseDistribution:
    """What Optuna's tools are told of a dimension; the points are not drawn from it."""
    if isinstance(dimension, Choices):
        return CategoricalDistribution(dimension.values)
    log = isinstance(dimension, LogUniform)
    return FloatDistribution(dimension.low, dimension.high, log=log)
