"""The loop of one run: step, log, evaluate, checkpoint; from the start or from where it was.

The host reads the metrics of a step while the device computes the next one, so neither waits for
the other. Everything that decides the result is a function of the configuration and the step, so an
interrupted run ends in the same bits as an undisturbed one.

What is told of a run while it is under way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from train.config.run import Contestant, RunConfig, config_hash
from train.data import Dataset, open_dataset
from train.host.signals import Interrupted
from train.inspection.out_of_memory import memory_explained
from train.records.lines import FinalRecord
from train.run.agreement import SharedStopRequest, check_same
from train.run.checkpoints import run_checkpointer
from train.run.folder import RECORDS, check_writable, claim, finished, held, imported_weights
from train.run.nonfinite_run import StuckError, unless_stuck
from train.run.recorder import Recorder
from train.run.trackers import TrackerName
from train.run.training_clock import NOTHING_SPENT, TRACE, Profiler, Stopwatch
from train.step.program import Program, build_program
from train.step.sharding import check_mesh, process_share
from train.tasks.vocabulary import check_vocabulary


class Progress(NamedTuple):
    """What a display shows of a run; called after every step."""

    step: int
    steps: int
    loss: float
    val_loss: float
    """Of the last evaluation; NaN before the first."""
    tokens_per_second: float


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
        again: its final record is returned, or the error raised that it ended with.
      contestant: What its records call the optimizer; by default the optimizer's own name.
      program: A program of the same configuration (any seed), to save its compilation.
      dataset: The configuration's open data set, likewise.
      on_progress: Called after every step.
      profile: Write a trace of a few steps into the folder.
      track: Who else is told of every record.

    Raises:
      ValueError: If the configuration does not fit the data, the devices or what the folder holds,
        or another process writes into it, or none can; raised before anything is written.
      Interrupted: If a signal asked to stop; the state is saved.
      DiskError: If the disk is full or fails; what is whole on it stays so.
      OutOfMemoryError: If a device's memory is not enough, while compiling or at a step.
      StuckError: After `config.max_consecutive_skips` non-finite steps in a row, or before a
        checkpoint would hold a non-finite parameter; a final record says that the run diverged.
    """
    done = finished(folder, config)
    if done is not None:
        return unless_stuck(done, config, folder)
    check_mesh(config)
    dataset = dataset or open_dataset(config.data)
    check_vocabulary(config, dataset)
    same = f"{config_hash(config)} on {config.mesh}"
    check_same("the configuration", same, "give every process the same flags.")
    check_same("the data", dataset.fingerprint, "prepare it once, where all processes read it.")
    check_writable(folder)
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
        stop = stack.enter_context(SharedStopRequest(program.mesh))
        stack.callback(run.close)  # Before the request is: a signal must not end a save.
        try:
            return run.to_the_end(stop)
        except StuckError as error:
            stuck = error
    # Only now: whoever takes it for a result must not go on if a signal came, which is sent again
    # when the request is closed.
    raise stuck


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
        self._checkpointer = run_checkpointer(folder, config, dataset)
        check_same(
            "the last checkpoint",
            str(self._checkpointer.latest_step()),
            "--out must lie where all processes read and write the same files.",
        )
        restored = self._checkpointer.restore(program.target)
        if restored is None and imported_weights(folder):
            raise ValueError(
                f"{folder} began with imported weights, and no checkpoint of it is left: import "
                "them again into another --out."
            )
        self._state = restored.state if restored else program.init(config.seed)
        self._clock = Stopwatch(program.mesh.size, restored.spent if restored else NOTHING_SPENT)
        self._start = int(self._state.step)
        trace = folder / TRACE if profile else None
        self._profiler = Profiler(trace, self._start + 1, config.steps)
        self._recorder = recorder(self._start)
        self._val_loss = math.nan
        self._metrics: Any = None

    def to_the_end(self, stop: SharedStopRequest) -> FinalRecord:
        """Steps until the last one is done or a signal asks to stop."""
        config = self._config
        if self._recorder.empty:
            self._recorder.start()
        if self._is_due(self._start, config.eval_every):
            self._evaluate(self._start, stop)  # If the call before this one has not.
            if stop.signum:
                raise Interrupted(stop.signum, self._start or None)
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
        self._checkpointer.wait()  # Whoever finds a final record finds the last state, too.
        final = self._recorder.final(config.steps, self._program, self._clock.spent)
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
            self._evaluate(step, stop)
        if stop.signum or self._is_due(step, self._config.checkpoint_every):
            self._check_parameters(step)
            self._recorder.sync()
            self._checkpointer.save(step, self._state, self._clock.spent)
        if stop.signum:
            raise Interrupted(stop.signum, step)

    def _read(self, step: int, metrics: Any) -> None:
        """Reads a step's metrics from the device, looks at them and logs them if it is time."""
        config, seconds = self._config, self._clock.seconds
        self._metrics = metrics
        loss, in_a_row = jax.device_get((metrics["loss"], metrics["consecutive_skips"]))
        if self._recorder.stands_out(float(loss), skipped=in_a_row > 0):
            self._recorder.spike(step, metrics, seconds)
        stuck = in_a_row >= config.max_consecutive_skips
        if stuck or self._is_due(step, config.log_every):
            self._recorder.step(step, metrics, seconds)
        if stuck:
            raise self._stuck(
                step,
                f"the gradients of {in_a_row} steps in a row were not finite, and no parameter has "
                f"changed since step {step - in_a_row}",
            )
        rate = (step - self._start) * config.tokens_per_step / max(self._clock.lap, 1e-9)
        self._on_progress(Progress(step, config.steps, float(loss), self._val_loss, rate))

    def _check_parameters(self, step: int) -> None:
        """Keeps what no guard has stopped out of the checkpoints."""
        norms = jax.device_get(self._metrics["param_norms"])
        bad = [layer_type for layer_type, norm in norms.items() if not math.isfinite(norm)]
        if bad:
            if not self._is_due(step, self._config.log_every):
                self._recorder.step(step, self._metrics, self._clock.seconds)
            raise self._stuck(step, f"the {' and '.join(bad)} parameters are no longer finite")

    def _stuck(self, step: int, what: str) -> StuckError:
        rate = self._config.optimizer.learning_rate
        return StuckError(
            f"step {step}: {what}. Lower --optimizer.learning-rate={rate}, or see the data.",
            self._recorder.final(step, self._program, self._clock.spent),
        )

    def _evaluate(self, step: int, stop: SharedStopRequest) -> None:
        """Evaluates a step once; what a signal breaks off is left to the call that goes on."""
        config = self._config
        if stop.signum or self._recorder.has_evaluated(step):
            return
        batches = self._dataset.validation_batches(
            config.batch_size, config.context, max_batches=config.eval_batches, **self._share
        )
        loss = self._program.evaluate(self._state.params, stop.until_asked(batches))
        if not stop.signum:
            self._val_loss = loss
            self._recorder.evaluation(step, loss, self._clock.seconds)
