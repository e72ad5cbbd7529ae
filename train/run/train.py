"""One run, from its configuration to its last record; started anew or gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from train.config.comparison import Contestant
from train.config.plain import config_hash
from train.config.run import RunConfig
from train.records.lines import FinalRecord
from train.run.agreement import SharedStopRequest, check_same
from train.run.checkpoints import run_checkpointer
from train.run.folder import (
    RECORDS,
    check_writable,
    claim,
    finished,
    held,
    imported_weights,
)
from train.run.loop import Loop, Member, OnProgress
from train.run.profiler import TRACE, Profiler
from train.run.recorder import Recorder
from train.run.trackers import TrackerName
from train.step.program import Program, build_program
from train.step.sharding import check_mesh, process_share
from train.step.state import TrainState
from train.tasks import Task, task_of
from train.tasks.task import Batch


class StuckError(RuntimeError):
    """The gradients or the parameters of a run are not finite: it cannot go on.

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
    task: Task | None = None,
    program: Program | None = None,
    on_progress: OnProgress = lambda progress: None,
    profile: bool = False,
    track: Sequence[TrackerName] = (),
) -> FinalRecord:
    """Trains one configuration to its last step, going on from the folder's last checkpoint.

    Args:
      config: The run.
      folder: Where configuration, records and checkpoints go. A finished run in it is not run
        again: its final record is returned, or the error raised that it ended with.
      contestant: What its records call the optimizer; by default the optimizer's own name.
      task: What is trained; by default what the configuration describes.
      program: A program of the same configuration (any seed), to save its compilation.
      on_progress: Called after every step.
      profile: Write a trace of a few steps into the folder.
      track: Who else is told of every record.

    Raises:
      ValueError: If the configuration does not fit the data, the devices or what the folder holds,
        or another process writes into it, or none can; raised before anything is written.
      Interrupted: If a signal asked to stop; the state is saved.
      DiskError: If the disk is full or fails; what is whole on it stays so.
      jax.errors.JaxRuntimeError: If a device's memory is not enough.
      StuckError: After `config.max_consecutive_skips` non-finite steps in a row, or before a
        checkpoint would hold a non-finite parameter; a final record says that the run diverged.
    """
    ended = finished(folder, config)
    if ended is not None:
        if ended.step < config.steps:  # Not done, whatever a launcher that starts it again thinks.
            raise StuckError(
                f"{folder} holds a run that got stuck at step {ended.step} of {config.steps}: move "
                "it away, or choose another --out.",
                ended,
            )
        return ended
    check_mesh(config)
    task = task or task_of(config)
    fingerprint = task.data().fingerprint
    same = f"{config_hash(config)} on {config.mesh}"
    check_same("the configuration", same, "give every process the same flags.")
    check_same("the data", fingerprint, "prepare it once, where all processes read it.")
    check_writable(folder)
    with ExitStack() as stack:
        program = program or build_program(config, task)
        if jax.process_index() == 0:
            stack.enter_context(held(folder))
            claim(folder, config)
        checkpointer = run_checkpointer(folder, config, fingerprint)
        latest = checkpointer.latest_step()
        shared = "--out must lie where all processes read and write the same files."
        check_same("the last checkpoint", str(latest), shared)
        if latest is None and imported_weights(folder):
            raise ValueError(
                f"{folder} began with imported weights, and no checkpoint of it is left: import "
                "them again into another --out."
            )

        trace = folder / TRACE if profile else None

        def members(start: int) -> list[Member]:
            path = folder / RECORDS
            return [Member(Recorder(path, config, task, start, contestant=contestant, track=track))]

        loop = Loop(
            config,
            task,
            _OneMember(program, config.seed),
            checkpointer,
            members,
            share=process_share(program.mesh, config.batch_size),
            on_progress=on_progress,
            profiler=lambda first: Profiler(trace, first, config.steps),
        )
        stop = stack.enter_context(SharedStopRequest(program.mesh))
        stack.callback(loop.close)  # Before the request is: a signal must not end a save.
        [member] = loop.to_the_end(stop)
    # Only now: whoever takes a diverged run for a result must not go on if a signal came, which is
    # sent again when the request is closed.
    assert member.final is not None
    if member.problem:
        rate = config.optimizer.learning_rate
        raise StuckError(
            f"{member.problem}. Lower --optimizer.learning-rate={rate}, or see the data.",
            member.final,
        )
    return member.final


@dataclass(frozen=True)
class _OneMember:
    """A run's program, as the loop wants the programs of populations."""

    program: Program
    seed: int

    @property
    def mesh(self) -> Mesh:
        return self.program.mesh

    @property
    def target(self) -> TrainState:
        return self.program.target

    @property
    def seeds(self) -> tuple[int]:
        return (self.seed,)

    def init(self) -> TrainState:
        return self.program.init(self.seed)

    def train_step(self, state: TrainState, batches: list[Batch]) -> tuple[TrainState, Any]:
        return self.program.train_step(state, batches[0])

    def evaluate(self, params: Any, batches: Any) -> np.ndarray:
        return np.array([self.program.evaluate(params, batches)])

    def metrics_of(self, member: int, metrics: Any) -> Any:
        return metrics

    def peak_bytes(self) -> int:
        return self.program.peak_bytes()

    def state_bytes_per_parameter(self) -> float:
        return self.program.state_bytes_per_parameter()
