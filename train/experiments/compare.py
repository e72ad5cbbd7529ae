"""A comparison: every optimizer on every seed, then the costs; stopped anywhere, it goes on there.

<folder>/comparison.json          what is compared
<folder>/runs/adamw-s0/           one run: configuration, records, checkpoints
<folder>/costs.jsonl              the cost sheet of each optimizer

Any number of processes, on any machines that see the folder, make the same call and share the runs.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from train.cli.progress import RunDisplay
from train.config.comparison import Comparison, Contestant, Entry
from train.experiments.costs.measure import measure_costs
from train.experiments.costs.mesh import EIGHT
from train.host.distributed import refuse_several_processes
from train.host.files import locked, write_whole
from train.inspection.out_of_memory import memory_explained
from train.records.lines import encode
from train.run.folder import (
    LOCK,
    BusyError,
    check_owner,
    finished,
    is_busy,
    refuse_links,
    write_config,
)
from train.run.train import StuckError, train
from train.step.program import Program, build_program
from train.step.sharding import check_mesh
from train.tasks import Task, task_of

_POLL = 1.0
"""Seconds between two looks at what other processes do."""


def compare(comparison: Comparison, folder: Path, display: RunDisplay) -> None:
    """Does what is still missing of a comparison, together with whoever else makes the same call.

    Args:
      comparison: What to compare.
      folder: Where it goes; holds this comparison's earlier work, or nothing.
      display: Told of every step.

    Raises:
      ValueError: If the folder holds another comparison or a link, the configuration does not fit
        the data or the devices, or this is one of several processes of one run.
      Interrupted: If a signal asked to stop; the same call goes on from there.
    """
    refuse_several_processes("compare", os.environ)
    check_owner(folder / "comparison.json", comparison)
    check_mesh(comparison)
    task = task_of(comparison)
    task.data()
    programs = _Programs(comparison, task)
    folder.mkdir(parents=True, exist_ok=True)
    refuse_links(folder)
    with locked(folder / LOCK):  # Another process may have come at the same moment.
        check_owner(folder / "comparison.json", comparison)
        write_config(folder / "comparison.json", comparison)
    ahead = comparison.runs()
    while ahead:
        ahead = [
            entry for entry in ahead if not _train(entry, folder / "runs", programs, task, display)
        ]
        if ahead:  # Others are at these, who may yet die.
            time.sleep(_POLL)
    if comparison.cost_rounds:
        with locked(folder / LOCK):  # Whoever comes second waits: nothing disturbs the clock.
            if not (folder / "costs.jsonl").exists():
                _measure(comparison, folder / "costs.jsonl", programs, task, display)


def _train(entry: Entry, runs: Path, programs: _Programs, task: Task, display: RunDisplay) -> bool:
    """Trains one run to its end, unless it is there; False while another process is at it."""
    contestant, config = entry
    folder = runs / entry.name
    found = finished(folder, config)
    if found is not None:
        display.run_found(entry.name, config.steps, found)
        return True
    if is_busy(folder):
        return False
    display.run_started(entry.name)
    try:
        final = train(
            config,
            folder,
            contestant=contestant,
            program=programs[contestant],
            task=task,
            on_progress=display.run_progress,
        )
    except StuckError as error:  # A diverged run is a result.
        final = error.final
    except BusyError:  # Since a moment ago.
        return False
    display.run_ended(entry.name, config.steps, final)
    return True


def _measure(
    comparison: Comparison, path: Path, programs: _Programs, task: Task, display: RunDisplay
) -> None:
    """Times all optimizers side by side; the file appears when all of it is there."""
    records = measure_costs(
        [programs[contestant] for contestant in comparison.contestants],
        next(task.train_batches(seed=0)),
        rounds=comparison.cost_rounds,
        contestants=comparison.contestants,
        mesh=EIGHT,
        on_round=lambda done: display.costs_progress(done, comparison.cost_rounds),
    )
    write_whole(path, b"".join(encode(record) for record in records))


class _Programs:
    """The compiled program of each contestant, made when it is first needed, shared by seeds."""

    def __init__(self, comparison: Comparison, task: Task) -> None:
        self._task = task
        self._configs = {
            contestant: config for contestant, config in comparison.runs() if config.seed == 0
        }
        self._built: dict[Contestant, Program] = {}

    def __getitem__(self, contestant: Contestant) -> Program:
        if contestant not in self._built:
            with memory_explained(self._configs[contestant]):
                self._built[contestant] = build_program(self._configs[contestant], self._task)
        return self._built[contestant]
