"""Runs that train together, from their configurations to their last records."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import jax

from train.config.plain import config_hash
from train.config.run import RunConfig
from train.records.lines import FinalRecord
from train.run.agreement import SharedStopRequest
from train.run.checkpoints import Checkpointer
from train.run.folder import RECORDS, check_writable, claim, finished, held
from train.run.loop import Loop, Member, OnProgress
from train.run.population.members import check_together
from train.run.population.program import PopulationProgram, build_population
from train.run.recorder import Recorder
from train.tasks import Task, task_of


def train_population(
    configs: Sequence[RunConfig],
    folders: Sequence[Path],
    *,
    checkpoints: Path,
    task: Task | None = None,
    program: PopulationProgram | None = None,
    on_progress: OnProgress = lambda progress: None,
) -> list[FinalRecord]:
    """Trains runs together to their last step, going on from their last checkpoint.

    Every member is the run of `train.run.train`, to the accuracy of float32, and leaves the same
    folder. Two numbers in its records are its share: `seconds` are the population's divided by its
    members, so that tokens a second are those of the whole population, and `peak_bytes` likewise.

    Args:
      configs: The members, which differ only in their seeds and in numbers of their optimizers.
      folders: Where each member's configuration and records go. A finished run is left as it is.
      checkpoints: The folder of the population's checkpoints.
      task: What they train; by default what the configurations describe.
      program: A program of the same members, to save its compilation.
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
    ended = _ended(configs, folders)
    if all(ended):
        return [final for final in ended if final]
    task = task or task_of(configs[0])
    fingerprint = task.data().fingerprint
    for folder in folders:
        check_writable(folder)
    program = program or build_population(configs, task)
    assert program.configs == tuple(configs)
    with contextlib.ExitStack() as stack:
        for folder, config in zip(folders, configs, strict=True):
            stack.enter_context(held(folder))
            claim(folder, config)
        ended = _ended(configs, folders)  # Another process may have ended one meanwhile.

        def members(start: int) -> list[Member]:
            return [
                Member(None if final else Recorder(folder / RECORDS, config, task, start), final)
                for folder, config, final in zip(folders, configs, ended, strict=True)
            ]

        loop = Loop(
            configs[0],  # In all that is asked of it, every member's.
            task,
            program,
            Checkpointer(
                checkpoints,
                config_hash=config_hash(tuple(configs)),
                fingerprint=fingerprint,
                seed=configs[0].seed,
            ),
            members,
            share={},
            on_progress=on_progress,
        )
        stop = stack.enter_context(SharedStopRequest(program.mesh))
        stack.callback(loop.close)  # Before the request is: a signal must not end a save.
        return [member.final for member in loop.to_the_end(stop) if member.final]


def _ended(configs: Sequence[RunConfig], folders: Sequence[Path]) -> list[FinalRecord | None]:
    return [finished(folder, config) for folder, config in zip(folders, configs, strict=True)]
