"""The loop of a run: step, log, evaluate, checkpoint; from the start or from where it was.

The host reads the metrics of a step while the device computes the next one, so neither waits for
the other. Everything that decides the result is a function of the configuration and the step, so an
interrupted run ends in the same bits as an undisturbed one.

A population (`train.run.population`) is several runs in one program. The loop knows members alone:
a run has one, a population has many, which step, are evaluated and are saved together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from train.config.run import RunConfig
from train.host.signals import Interrupted
from train.records.lines import FinalRecord
from train.run.agreement import SharedStopRequest
from train.run.checkpoints import Checkpointer
from train.run.profiler import Profiler
from train.run.recorder import CompiledStep, Recorder
from train.run.training_clock import NOTHING_SPENT, Spent, TrainingClock
from train.step.state import TrainState
from train.tasks.task import Batch, Task


class Progress(NamedTuple):
    """How far a run is; given to whoever shows it after every step."""

    step: int
    steps: int
    loss: float
    """Of a population the lowest among its members."""
    val_loss: float
    """Of the last evaluation, likewise; NaN before the first."""
    tokens_per_second: float
    """Of all members together."""


OnProgress = Callable[[Progress], None]


class Steps(CompiledStep, Protocol):
    """A compiled program, for one member or many."""

    @property
    def target(self) -> TrainState:
        """The state's shapes, dtypes and shardings."""

    @property
    def seeds(self) -> Sequence[int]:
        """Of the streams of batches that a step reads."""

    def init(self) -> TrainState:
        """The state before the first step."""

    def train_step(self, state: TrainState, batches: list[Batch]) -> tuple[TrainState, Any]:
        """One step on a batch of each stream; the old state is donated."""

    def evaluate(self, params: Any, batches: Any) -> np.ndarray:
        """The mean loss of each member."""

    def metrics_of(self, member: int, metrics: Any) -> Any:
        """A member's part of the metrics."""


@dataclass
class Member:
    """One run of those that train together."""

    recorder: Recorder | None
    """None if an earlier call ended it: its records stay as they are."""
    final: FinalRecord | None = None
    """Its last record, once it has ended."""
    problem: str = ""
    """Why it ended before the last step."""


class Loop:
    """Members under way: their state, and what has to happen around each step.

    Args:
      config: The members', in all that the loop asks of it.
      task: What they train.
      program: Their compiled steps.
      checkpointer: Where their state is saved; begun with, if it holds one.
      make_members: Given the step that training goes on from.
      share: Which rows of a batch this process reads, as `process_share` says.
      on_progress: Called after every step.
      profiler: Given the first step that is made, traces some.
    """

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        program: Steps,
        checkpointer: Checkpointer,
        make_members: Callable[[int], list[Member]],
        *,
        share: dict[str, int],
        on_progress: OnProgress,
        profiler: Callable[[int], Profiler] = Profiler.off,
    ) -> None:
        self._config, self._task, self._program = config, task, program
        self._share, self._on_progress = share, on_progress
        self._checkpointer = checkpointer
        restored = checkpointer.restore(program.target)
        self._state = restored.state if restored else program.init()
        self._clock = TrainingClock(
            program.mesh.size, restored.spent if restored else NOTHING_SPENT
        )
        self._start = int(self._state.step)
        self._members = make_members(self._start)
        self._profiler = profiler(self._start + 1)
        self._val_losses = np.full(len(self._members), math.nan)
        self._metrics: Any = None

    def to_the_end(self, stop: SharedStopRequest) -> list[Member]:
        """Steps until the last one is done or no member is left.

        Raises:
          Interrupted: If a signal asked to stop; the state is saved.
        """
        config, start = self._config, self._start
        for _, recorder in self._running():
            if recorder.empty:
                recorder.start()
        if self._is_due(start, config.eval_every):
            self._evaluate(start, stop)  # If the call before this one has not.
            if stop.signum:
                raise Interrupted(stop.signum, start or None)
        streams = [
            self._task.train_batches(seed=seed, start_step=start, **self._share)
            for seed in self._program.seeds
        ]
        pending: list[tuple[int, Any]] = []
        with self._clock:
            for step in range(start + 1, config.steps + 1):
                self._profiler.before(step)
                batches = [next(stream) for stream in streams]
                self._state, metrics = self._program.train_step(self._state, batches)
                self._profiler.after(step, metrics)
                pending.append((step, metrics))
                stop.agree()
                pause = stop.signum or self._is_due(
                    step, config.eval_every, config.checkpoint_every
                )
                while len(pending) > (0 if pause else 1):
                    self._read(*pending.pop(0))
                if not self._running():
                    break
                if pause:
                    with self._clock.paused():
                        self._between_steps(step, stop)
        self._checkpointer.wait()  # Whoever finds a final record finds the last state, too.
        running = self._running()
        for member, _ in running:
            self._end(member, config.steps)
        if stop.signum and running:  # Now the caller must not go on to another run.
            raise Interrupted(stop.signum, config.steps)
        return self._members

    def close(self) -> None:
        """Waits for a save under way and closes the records."""
        self._profiler.close()
        self._checkpointer.close()
        for member in self._members:
            if member.recorder:
                member.recorder.close()

    def _running(self) -> list[tuple[int, Recorder]]:
        """The members that have not ended, with their records."""
        return [
            (number, member.recorder)
            for number, member in enumerate(self._members)
            if member.recorder and not member.final
        ]

    def _is_due(self, step: int, *intervals: int) -> bool:
        return step == self._config.steps or any(step % every == 0 for every in intervals)

    def _between_steps(self, step: int, stop: SharedStopRequest) -> None:
        if self._is_due(step, self._config.eval_every):
            self._evaluate(step, stop)
        if stop.signum or self._is_due(step, self._config.checkpoint_every):
            self._end_broken(step)
            for _, recorder in self._running():
                recorder.sync()
            if self._running():
                self._checkpointer.save(step, self._state, self._clock.spent)
        if stop.signum and self._running():
            raise Interrupted(stop.signum, step)

    def _read(self, step: int, metrics: Any) -> None:
        """Reads a step's metrics from the device, looks at them and logs them if it is time."""
        config, seconds = self._config, self._clock.seconds
        self._metrics = metrics
        read = jax.device_get((metrics["loss"], metrics["consecutive_skips"]))
        losses, skips_in_a_row = map(np.atleast_1d, read)
        running = self._running()
        for member, recorder in running:
            skips = int(skips_in_a_row[member])
            if recorder.stands_out(float(losses[member]), skipped=skips > 0):
                recorder.spike(step, self._metrics_of(member), self._share_of(seconds))
            is_stuck = skips >= config.max_consecutive_skips
            if is_stuck or self._is_due(step, config.log_every):
                recorder.step(step, self._metrics_of(member), self._share_of(seconds))
            if is_stuck:
                self._end(
                    member,
                    step,
                    f"the gradients of {skips} steps in a row were not finite, and no parameter "
                    f"has changed since step {step - skips}",
                )
        numbers = [member for member, _ in running]
        tokens = (step - self._start) * self._task.tokens_per_step * len(self._members)
        progress = Progress(
            step,
            config.steps,
            _lowest(losses[numbers]),
            _lowest(self._val_losses[numbers]),
            tokens / max(self._clock.lap, 1e-9),
        )
        if self._running():
            self._on_progress(progress)

    def _end_broken(self, step: int) -> None:
        """Ends the members whose parameters are not finite, which no checkpoint may hold."""
        for member, recorder in self._running():
            norms = jax.device_get(self._metrics_of(member)["param_norms"])
            broken = [name for name, norm in norms.items() if not math.isfinite(norm)]
            if broken:
                if not self._is_due(step, self._config.log_every):
                    seconds = self._share_of(self._clock.seconds)
                    recorder.step(step, self._metrics_of(member), seconds)
                what = f"the {' and '.join(broken)} parameters are no longer finite"
                self._end(member, step, what)

    def _end(self, number: int, step: int, problem: str = "") -> None:
        """Writes a member's last record."""
        member = self._members[number]
        assert member.recorder is not None
        spent = Spent(*map(self._share_of, self._clock.spent))
        member.final = member.recorder.final(step, self._program, spent)
        member.problem = problem and f"step {step}: {problem}"

    def _evaluate(self, step: int, stop: SharedStopRequest) -> None:
        """Evaluates a step once; what a signal breaks off is left to the call that goes on."""
        ahead = [pair for pair in self._running() if not pair[1].has_evaluated(step)]
        if stop.signum or not ahead:
            return
        batches = self._task.validation_batches(**self._share)
        losses = self._program.evaluate(self._state.params, stop.until_asked(batches))
        if stop.signum:
            return
        self._val_losses = losses
        for member, recorder in ahead:
            recorder.evaluation(step, float(losses[member]), self._share_of(self._clock.seconds))

    def _metrics_of(self, member: int) -> Any:
        return self._program.metrics_of(member, self._metrics)

    def _share_of(self, seconds: float) -> float:
        """A member's part of the time of all."""
        return seconds / len(self._members)


def _lowest(losses: np.ndarray) -> float:
    """The lowest that is a number; NaN where there is none."""
    return float(np.fmin.reduce(losses, initial=math.nan))
