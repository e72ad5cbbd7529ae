"""The loop of a population: that of one run, around all members' steps at once.

Members step, are evaluated and are saved together. One whose gradients stay non-finite, or whose
parameters are no longer finite when they are saved, has diverged: its records end, and the others
go on.

A population's records: for each member the lines of a run of its own, in its own folder.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from train.config.run import RunConfig, config_hash
from train.data import Dataset, open_dataset
from train.host.signals import Interrupted, StopRequest
from train.records.lines import FinalRecord
from train.run.checkpoints import Checkpointer
from train.run.folder import RECORDS, check_writable, claim, finished, held
from train.run.loop import Progress
from train.run.population.members import check_together
from train.run.population.program import PopulationProgram, build_population
from train.run.recorder import Recorder
from train.run.training_clock import NOTHING_SPENT, Spent, Stopwatch
from train.tasks.vocabulary import check_vocabulary


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


def train_population(
    configs: Sequence[RunConfig],
    folders: Sequence[Path],
    *,
    checkpoints: Path,
    program: PopulationProgram | None = None,
    dataset: Dataset | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> list[FinalRecord]:
    """Trains runs together to their last step, going on from their last checkpoint.

    Every member is the run of `run.loop.train`, to the accuracy of float32, and its folder tells
    the same. Two things in its records are its share: `seconds` are the population's divided by its
    members, so that tokens a second are those of the whole population, and `peak_bytes` likewise.

    Args:
      configs: The members, which differ only in their seeds and in numbers of their optimizers.
      folders: Where each member's configuration and records go. A finished run is left as it is.
      checkpoints: The folder of the population's checkpoints.
      program: A program of the same members, to save its compilation.
      dataset: The configurations' open data set, likewise.
      on_progress: Called after every step, with the lowest losses among the members.

    Returns:
      The members' final records. One that diverged says so, and is no error.

    Raises:
      ValueError: If the members cannot train together, if they do not fit the data, the devices or
        what the folders hold, if another process is at work in one, or if there are several.
      Interrupted: If a signal asked to stop; the state of all members is saved.
    """
    if jax.process_count() > 1:
        raise ValueError(
            f"a population trains in one process, and there are {jax.process_count()}: start a job "
            "of one process for each population."
        )
    check_together(configs)
    if not len(configs) == len(folders) == len(set(folders)):
        raise ValueError(
            f"{len(configs)} members have {len(set(folders))} folders: give each its own."
        )
    done = _ended(configs, folders)
    if all(done):
        return [final for final in done if final]
    dataset = dataset or open_dataset(configs[0].data)
    check_vocabulary(configs[0], dataset)
    for folder in folders:
        check_writable(folder)
    program = program or build_population(configs)
    assert program.configs == tuple(configs)
    with contextlib.ExitStack() as stack:
        for folder, config in zip(folders, configs, strict=True):
            stack.enter_context(held(folder))
            claim(folder, config)
        done = _ended(configs, folders)  # Another process may have ended one meanwhile.
        run = _Run(folders, done, checkpoints, program, dataset, on_progress)
        stop = stack.enter_context(StopRequest())
        stack.callback(run.close)  # Before the request is: a signal must not end a save.
        return run.to_the_end(stop)


def _ended(configs: Sequence[RunConfig], folders: Sequence[Path]) -> list[FinalRecord | None]:
    return [finished(folder, config) for folder, config in zip(folders, configs, strict=True)]


class _Run:
    """A population under way: the state, and what has to happen around each step."""

    def __init__(
        self,
        folders: Sequence[Path],
        finals: Sequence[FinalRecord | None],
        checkpoints: Path,
        program: PopulationProgram,
        dataset: Dataset,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._program, self._dataset, self._on_progress = program, dataset, on_progress
        self._config = program.configs[0]  # In all that is asked of it, every member's.
        self._checkpointer = Checkpointer(
            checkpoints,
            config_hash=config_hash(program.configs),
            fingerprint=dataset.fingerprint,
            seed=self._config.seed,
        )
        restored = self._checkpointer.restore(program.target)
        self._state = restored.state if restored else program.init()
        self._clock = Stopwatch(program.mesh.size, restored.spent if restored else NOTHING_SPENT)
        self._start = int(self._state.step)
        self._records = PopulationRecorder(
            program.configs, folders, dataset, finals, after_step=self._start
        )
        self._val_losses = np.full(len(program.configs), math.nan)
        self._metrics: Any = None

    def to_the_end(self, stop: StopRequest) -> list[FinalRecord]:
        """Steps until the last one is done, nobody is left or a signal asks to stop."""
        config, records = self._config, self._records
        records.start(records.empty)
        if self._start == 0 and (ahead := records.unevaluated(0)):
            self._evaluate(0, ahead)
        batches = [
            self._dataset.train_batches(
                config.batch_size, config.context, seed=seed, start_step=self._start
            )
            for seed in self._program.seeds
        ]
        pending: list[tuple[int, Any]] = []
        with self._clock:
            for step in range(self._start + 1, config.steps + 1):
                self._state, metrics = self._program.train_step(
                    self._state, [next(own) for own in batches]
                )
                pending.append((step, metrics))
                pause = stop.signum or self._is_due(
                    step, config.eval_every, config.checkpoint_every
                )
                while len(pending) > (0 if pause else 1):
                    self._read(*pending.pop(0))
                if not records.running:
                    break
                if pause:
                    with self._clock.paused():
                        self._between_steps(step, stop)
        self._checkpointer.wait()  # Whoever finds final records finds the last state, too.
        records.end(records.running, config.steps, self._program, self._clock.spent)
        if stop.signum:  # It came with the last step: the caller must not go on to other runs.
            raise Interrupted(stop.signum, config.steps)
        return records.finals

    def close(self) -> None:
        """Waits for a save under way and closes the records."""
        self._checkpointer.close()
        self._records.close()

    def _is_due(self, step: int, *intervals: int) -> bool:
        return step == self._config.steps or any(step % every == 0 for every in intervals)

    def _between_steps(self, step: int, stop: StopRequest) -> None:
        if self._is_due(step, self._config.eval_every):
            self._evaluate(step, self._records.running)
        if self._is_due(step, self._config.checkpoint_every):
            self._end_broken(step)  # And at no other step: a stop must not change what is recorded.
        if stop.signum or self._is_due(step, self._config.checkpoint_every):
            self._records.sync()
            self._checkpointer.save(step, self._state, self._clock.spent)
        if stop.signum and step < self._config.steps:
            raise Interrupted(stop.signum, step)

    def _read(self, step: int, metrics: Any) -> None:
        """Reads a step's metrics from the device, looks at them and logs them if it is time."""
        config, records, seconds = self._config, self._records, self._clock.seconds
        self._metrics = metrics
        losses, in_a_row = jax.device_get((metrics["loss"], metrics["consecutive_skips"]))
        running = records.running
        skipped = in_a_row > 0
        spiking = [m for m in running if records.stands_out(m, losses[m], skipped=skipped[m])]
        if spiking:
            records.spike(spiking, step, metrics, seconds)
        stuck = [m for m in running if in_a_row[m] >= config.max_consecutive_skips]
        logged = running if self._is_due(step, config.log_every) else stuck
        if logged:
            records.step(logged, step, metrics, seconds)
        records.end(stuck, step, self._program, self._clock.spent)
        tokens = (step - self._start) * config.tokens_per_step * len(self._program.configs)
        progress = Progress(
            step,
            config.steps,
            _lowest(losses[running]),
            _lowest(self._val_losses[running]),
            tokens / max(self._clock.lap, 1e-9),
        )
        self._on_progress(progress)

    def _end_broken(self, step: int) -> None:
        """Ends the members whose parameters no guard has kept finite."""
        records, seconds = self._records, self._clock.seconds
        norms = np.stack(jax.device_get([*self._metrics["param_norms"].values()]))
        broken = [m for m in records.running if not np.isfinite(norms[:, m]).all()]
        if not self._is_due(step, self._config.log_every):
            records.step(broken, step, self._metrics, seconds)
        records.end(broken, step, self._program, self._clock.spent)

    def _evaluate(self, step: int, members: Sequence[int]) -> None:
        config = self._config
        batches = self._dataset.validation_batches(
            config.batch_size, config.context, max_batches=config.eval_batches
        )
        self._val_losses = self._program.evaluate(self._state.params, batches)
        self._records.evaluation(members, step, self._val_losses, self._clock.seconds)


def _lowest(losses: np.ndarray) -> float:
    """The lowest that is a number; NaN where there is none."""
    return float(np.fmin.reduce(losses, initial=math.nan))
