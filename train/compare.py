"""A comparison: every optimizer on every seed, then the costs; stopped anywhere, it goes on there.

<folder>/comparison.json          what is compared
<folder>/runs/adamw-s0/           one run: configuration, records, checkpoints
<folder>/costs.jsonl              step time and memory of each optimizer
"""

from __future__ import annotations

import os
from pathlib import Path

from train.atomic import write_whole
from train.config import Comparison, RunConfig
from train.costs import measure_costs
from train.data import Dataset, open_dataset
from train.display import RunDisplay
from train.distributed import refuse_several_processes
from train.loop import StuckError, check_vocabulary, train
from train.memory import memory_explained
from train.optimizer_configs import OptimizerConfig, key
from train.program import Program, build_program
from train.records import encode
from train.run_folder import check_owner, finished, write_config
from train.sharding import check_mesh


def compare(comparison: Comparison, folder: Path, display: RunDisplay) -> None:
    """Runs what is still missing of a comparison.

    Args:
      comparison: What to compare.
      folder: Where it goes; holds this comparison's earlier work, or nothing.
      display: Told of every step.

    Raises:
      ValueError: If the folder holds another comparison, the configuration does not fit the data
        or the devices, or this is one of several processes.
      Interrupted: If a signal asked to stop; the same call goes on from there.
    """
    refuse_several_processes("compare", os.environ)
    check_owner(folder / "comparison.json", comparison)
    check_mesh(comparison)
    dataset = open_dataset(comparison.data)
    check_vocabulary(comparison, dataset)
    programs = _Programs(comparison)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder / "comparison.json", comparison)
    for run in comparison.runs():
        _train(run, folder / "runs", programs, dataset, display)
    if not (folder / "costs.jsonl").exists():
        _measure(comparison, folder / "costs.jsonl", programs, dataset, display)


def _train(
    run: RunConfig, runs: Path, programs: _Programs, dataset: Dataset, display: RunDisplay
) -> None:
    """Trains one run to its end, unless an earlier call did."""
    name = f"{key(run.optimizer)}-s{run.seed}"
    found = finished(runs / name, run)
    if found is not None:
        display.run_found(name, run.steps, found)
        return
    display.run_started(name)
    program = programs[run.optimizer]
    try:
        final = train(
            run, runs / name, program=program, dataset=dataset, on_progress=display.run_progress
        )
    except StuckError as error:  # A diverged run is a result.
        final = error.final
    display.run_ended(name, run.steps, final)


def _measure(
    comparison: Comparison, path: Path, programs: _Programs, dataset: Dataset, display: RunDisplay
) -> None:
    """Times all optimizers side by side; the file appears when all of it is there."""
    records = measure_costs(
        [programs[optimizer] for optimizer in comparison.optimizers],
        next(dataset.train_batches(comparison.batch_size, comparison.context, seed=0)),
        rounds=comparison.cost_rounds,
        on_round=lambda done: display.costs_progress(done, comparison.cost_rounds),
    )
    write_whole(path, b"".join(encode(record) for record in records))


class _Programs:
    """The compiled program of each optimizer, made when it is first needed and shared by seeds."""

    def __init__(self, comparison: Comparison) -> None:
        self._runs = {run.optimizer: run for run in comparison.runs() if run.seed == 0}
        self._built: dict[OptimizerConfig, Program] = {}

    def __getitem__(self, optimizer: OptimizerConfig) -> Program:
        if optimizer not in self._built:
            with memory_explained(self._runs[optimizer]):
                self._built[optimizer] = build_program(self._runs[optimizer])
        return self._built[optimizer]
