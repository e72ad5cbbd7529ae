"""The loop of one run: step, log, evaluate, checkpoint; from the start or from where it was.

The host reads the metrics of a step while the device computes the next one, so neither waits for
the other. Everything that decides the result is a function of the configuration and the step, so an
interrupted run ends in the same bits as an undisturbed one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from train.agreement import SharedStopRequest, check_same
from train.checkpointing import Checkpointer
from train.config import Experiment, RunConfig, config_hash
from train.contestants import Contestant
from train.data import Dataset, open_dataset
from train.interrupts import Interrupted
from train.memory import memory_explained
from train.profiling import TRACE, Profiler
from train.program import Program, build_program
from train.recorder import Recorder
from train.records import FinalRecord
from train.run_folder import RECORDS, claim, finished, held
from train.sharding import check_mesh, process_share
from train.stopwatch import Stopwatch
from train.tracking import TrackerName


class Progress(NamedTuple):
    """What a display shows of a run; called after every step."""

    step: int
    steps: int
    loss: float
    val_loss: float
    """Of the last evaluation; NaN before the first."""
    tokens_per_second: float


class StuckError(RuntimeError):
    """Too many non-finite steps in a row: the run cannot go on.

    Attributes:
      final: The run's last record, which says that it diverged.
    """

    def __init__(self, message: str, final: FinalRecord) -> None:
        super().__init__(message)
        self.final = final


def train(
    config: RunConfig,
    folder: Path,
    *,
    contestant: Contestant | None = None,
    program: Program | None = None,
    dataset: Dataset | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    profile: bool = False,
    track: Sequence[TrackerName] = (),
) -> FinalRecord:
    """Trains one configuration to its last step, going on from the folder's last checkpoint.

    Args:
      config: The run.
      folder: Where configuration, records and checkpoints go. A finished run in it is not run
        again: its final record is returned.
      contestant: What its records call the optimizer; by default the optimizer's own name.
      program: A program of the same configuration (any seed), to save its compilation.
      dataset: The configuration's open data set, likewise.
      on_progress: Called after every step.
      profile: Write a trace of a few steps into the folder.
      track: Who else is told of every record.

    Raises:
      ValueError: If the configuration does not fit the data, the devices or what the folder holds,
        or another process writes into it; raised before anything is written.
      Interrupted: If a signal asked to stop; the state is saved.
      OutOfMemoryError: If a device's memory is not enough, while compiling or at a step.
      StuckError: After `config.max_consecutive_skips` non-finite steps in a row; a final record
        says that the run diverged.
    """
    done = finished(folder, config)
    if done is not None:
        return done
    check_mesh(config)
    dataset = dataset or open_dataset(config.data)
    check_vocabulary(config, dataset)
    check_same("the configuration", config_hash(config), "give every process the same flags.")
    check_same("the data", dataset.fingerprint, "prepare it once, where all processes read it.")
    with ExitStack() as stack:
        stack.enter_context(memory_explained(config))
        program = program or build_program(config)
        if jax.process_index() == 0:
            stack.enter_context(held(folder))
            claim(folder, config)
        recorder = partial(
            Recorder, folder / RECORDS, config, dataset, contestant=contestant, track=track
        )
        run = _Run(config, folder, program, dataset, recorder, on_progress, profile)
        stack.callback(run.close)
        with SharedStopRequest(program.mesh) as stop:
            return run.to_the_end(stop)


def check_vocabulary(config: Experiment, dataset: Dataset) -> None:
    """Refuses a model that lacks an embedding for one of the data's tokens.

    Raises:
      ValueError: If the model's vocabulary is smaller than the tokenizer's.
    """
    if config.model.vocab_size < dataset.vocab_size:
        raise ValueError(
            f"model.vocab_size={config.model.vocab_size} is smaller than the {dataset.vocab_size} "
            f"tokens of {dataset.tokenizer_name}: set --model.vocab-size {dataset.vocab_size}."
        )


class _Run:
    """One run under way: the state, and what has to happen around each step."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        program: Program,
        dataset: Dataset,
        recorder: Callable[[int], Recorder],
        on_progress: Callable[[Progress], None],
        profile: bool,
    ) -> None:
        self._config, self._program, self._dataset = config, program, dataset
        self._on_progress = on_progress
        self._share = process_share(program.mesh, config.batch_size)
        self._checkpointer = Checkpointer(
            folder / "checkpoints",
            config_hash=config_hash(config),
            fingerprint=dataset.fingerprint,
            seed=config.seed,
        )
        check_same(
            "the last checkpoint",
            str(self._checkpointer.latest_step()),
            "--out must lie where all processes read and write the same files.",
        )
        restored = self._checkpointer.restore(program.target)
        self._state = restored.state if restored else program.init(config.seed)
        self._clock = Stopwatch(restored.seconds if restored else 0.0)
        self._start = int(self._state.step)
        trace = folder / TRACE if profile else None
        self._profiler = Profiler(trace, self._start + 1, config.steps)
        self._recorder = recorder(self._start)
        self._val_loss = math.nan

    def to_the_end(self, stop: SharedStopRequest) -> FinalRecord:
        """Steps until the last one is done or a signal asks to stop."""
        config = self._config
        if self._recorder.empty:
            self._recorder.start()
            self._evaluate(0)
        batches = self._dataset.train_batches(
            config.batch_size,
            config.context,
            seed=config.seed,
            start_step=self._start,
            **self._share,
        )
        pending: list[tuple[int, Any]] = []
        with self._clock:
            for step in range(self._start + 1, config.steps + 1):
                self._profiler.before(step)
                self._state, metrics = self._program.train_step(self._state, next(batches))
                self._profiler.after(step, metrics)
                pending.append((step, metrics))
                stop.agree()
                pause = stop.signum or self._is_due(
                    step, config.eval_every, config.checkpoint_every
                )
                while len(pending) > (0 if pause else 1):
                    self._read(*pending.pop(0))
                if pause:
                    with self._clock.paused():
                        self._between_steps(step, stop)
        final = self._recorder.final(config.steps, self._program, self._clock.seconds)
        if stop.signum:  # It came with the last step: the caller must not go on to another run.
            raise Interrupted(stop.signum, config.steps)
        return final

    def close(self) -> None:
        """Waits for a save under way and closes the records."""
        self._profiler.close()
        self._checkpointer.close()
        self._recorder.close()

    def _is_due(self, step: int, *intervals: int) -> bool:
        return step == self._config.steps or any(step % every == 0 for every in intervals)

    def _between_steps(self, step: int, stop: SharedStopRequest) -> None:
        if self._is_due(step, self._config.eval_every):
            self._evaluate(step)
        if stop.signum or self._is_due(step, self._config.checkpoint_every):
            self._recorder.sync()
            self._checkpointer.save(step, self._state, self._clock.seconds)
        if stop.signum and step < self._config.steps:
            raise Interrupted(stop.signum, step)

    def _read(self, step: int, metrics: Any) -> None:
        """Reads a step's metrics from the device, looks at them and logs them if it is time."""
        config, seconds = self._config, self._clock.seconds
        loss, in_a_row = jax.device_get((metrics["loss"], metrics["consecutive_skips"]))
        stuck = in_a_row >= config.max_consecutive_skips
        if stuck or self._is_due(step, config.log_every):
            self._recorder.step(step, metrics, seconds)
        if stuck:
            final = self._recorder.final(step, self._program, seconds)
            raise StuckError(
                f"step {step}: the gradients of {in_a_row} steps in a row were not finite, and no "
                f"parameter has changed since step {step - in_a_row}. Lower "
                f"--optimizer.learning-rate={config.optimizer.learning_rate}, or see the data.",
                final,
            )
        rate = (step - self._start) * config.tokens_per_step / max(self._clock.lap, 1e-9)
        self._on_progress(Progress(step, config.steps, float(loss), self._val_loss, rate))

    def _evaluate(self, step: int) -> None:
        config = self._config
        batches = self._dataset.validation_batches(
            config.batch_size, config.context, max_batches=config.eval_batches, **self._share
        )
        self._val_loss = self._program.evaluate(self._state.params, batches)
        self._recorder.evaluation(step, self._val_loss, self._clock.seconds)
