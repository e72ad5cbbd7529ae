"""A comparison: every optimizer on every seed, then the costs; stopped anywhere, it goes on there.

<folder>/comparison.json          what is compared
<folder>/runs/adamw-s0/           one run: configuration, records, checkpoints
<folder>/costs.jsonl              step time and memory of each optimizer
"""

from __future__ import annotations

from pathlib import Path

from train.config import Comparison
from train.costs import measure_costs
from train.data import open_dataset
from train.display import RunDisplay
from train.loop import StuckError, check_vocabulary, train
from train.optimizer_configs import OptimizerConfig, key
from train.program import Program, build_program
from train.records import RecordWriter
from train.run_folder import check_owner, finished, write_config
from train.sharding import check_mesh


def compare(comparison: Comparison, folder: Path, display: RunDisplay) -> None:
    """Runs what is still missing of a comparison.

    Args:
      comparison: What to compare.
      folder: Where it goes; holds this comparison's earlier work, or nothing.
      display: Told of every step.

    Raises:
      ValueError: If the folder holds another comparison, or the configuration does not fit the data
        or the devices.
      Interrupted: If a signal asked to stop; the same call goes on from there.
    """
    check_owner(folder / "comparison.json", comparison)
    check_mesh(comparison)
    dataset = open_dataset(comparison.data)
    check_vocabulary(comparison, dataset)
    programs = _Programs(comparison)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder / "comparison.json", comparison)
    for run in comparison.runs():
        name = f"{key(run.optimizer)}-s{run.seed}"
        run_folder = folder / "runs" / name
        done = finished(run_folder, run)
        if done is None:
            display.run_started(name)
            program = programs[run.optimizer]
            try:
                done = train(
                    run,
                    run_folder,
                    program=program,
                    dataset=dataset,
                    on_progress=display.run_progress,
                )
            except StuckError:  # Its records say so: a diverged run is a result.
                done = finished(run_folder, run)
                assert done is not None
        outcome = "diverged" if done.diverged else f"validation loss {done.val_loss:.4f}"
        display.run_ended(name, run.steps, outcome)
    costs = folder / "costs.jsonl"
    if costs.exists():
        return
    batch = next(dataset.train_batches(comparison.batch_size, comparison.context, seed=0))
    records = measure_costs(
        [programs[optimizer] for optimizer in comparison.optimizers],
        batch,
        rounds=comparison.cost_rounds,
        on_round=lambda done: display.costs_progress(done, comparison.cost_rounds),
    )
    temporary = costs.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with RecordWriter(temporary) as writer:
        for record in records:
            writer.write(record)
    temporary.replace(costs)


class _Programs:
    """The compiled program of each optimizer, made when it is first needed and shared by seeds."""

    def __init__(self, comparison: Comparison) -> None:
        self._runs = {run.optimizer: run for run in comparison.runs() if run.seed == 0}
        self._built: dict[OptimizerConfig, Program] = {}

    def __getitem__(self, optimizer: OptimizerConfig) -> Program:
        if optimizer not in self._built:
            self._built[optimizer] = build_program(self._runs[optimizer])
        return self._built[optimizer]
