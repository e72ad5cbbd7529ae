"""A comparison: every optimizer on every seed, then the costs; stopped anywhere, it goes on there.

<folder>/comparison.json          what is compared
<folder>/runs/adamw-s0/           one run: configuration, records, checkpoints
<folder>/costs.jsonl              the cost sheet of each optimizer

Any number of processes, on any machines that see the folder, make the same call and share the runs
(`train.experiments.sharing`).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from train.config.comparison import Comparison, Contestant
from train.experiments.costs.measure import measure_costs
from train.experiments.costs.mesh import EIGHT
from train.experiments.sharing import (
    SILENT,
    Observer,
    SharedRun,
    claim_experiment,
    share_out,
    train_alone,
)
from train.host.distributed import refuse_several_processes
from train.host.files import locked, write_whole
from train.inspection.out_of_memory import memory_explained
from train.records.lines import encode
from train.run.folder import LOCK
from train.step.program import Program, build_program


def compare(comparison: Comparison, folder: Path, observer: Observer = SILENT) -> None:
    """Does what is still missing of a comparison, together with whoever else makes the same call.

    Args:
      comparison: What to compare.
      folder: Where it goes; holds this comparison's earlier work, or nothing.
      observer: Told of every run and step.

    Raises:
      ValueError: If the folder holds another comparison or a link, the configuration does not fit
        the data or the devices, or this is one of several processes of one run.
      Interrupted: If a signal asked to stop; the same call goes on from there.
    """
    refuse_several_processes("compare", os.environ)
    task = claim_experiment(folder / "comparison.json", comparison)
    runs = [
        SharedRun(entry.name, folder / "runs" / entry.name, entry.config, entry.contestant)
        for entry in comparison.runs()
    ]

    @functools.cache  # Seeds share a program, which is compiled when it is first needed.
    def program_of(contestant: Contestant) -> Program:
        return build_program(next(r.config for r in runs if r.contestant == contestant), task)

    def train_group(group: Sequence[SharedRun]) -> None:
        [run] = group
        assert run.contestant is not None
        train_alone(run, task, observer, program=program_of(run.contestant))

    share_out([[run] for run in runs], train_group, observer)
    path = folder / "costs.jsonl"
    if comparison.cost_rounds:
        with locked(folder / LOCK):  # Whoever comes second waits: nothing disturbs the clock.
            if not path.exists():
                with memory_explained(runs[0].config):
                    records = measure_costs(
                        [program_of(contestant) for contestant in comparison.contestants],
                        next(task.train_batches(seed=0)),
                        rounds=comparison.cost_rounds,
                        contestants=comparison.contestants,
                        mesh=EIGHT,
                        on_round=lambda done: observer.costs_progress(done, comparison.cost_rounds),
                    )
                write_whole(path, b"".join(encode(record) for record in records))
