"""What each optimizer's step costs: time and memory, the update alone, and its share of a mesh.

All of it is measured side by side in one process (`interleaved_timing`), but for the mesh, which is
compiled for in another (`mesh`). A second copy of the baseline takes turns with the rest: its ratio
to the first would be 1 if the machine were quiet, and says how much noise there is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from train.config.comparison import Contestant
from train.config.run import MeshConfig
from train.data import Batch
from train.experiments.costs.interleaved_timing import (
    compile_update,
    step_runner,
    steps_lasting,
    take_turns,
    update_runner,
)
from train.experiments.costs.mesh import measure_mesh_costs
from train.records.kinds import UpdateCost, ratio
from train.records.lines import CostRecord
from train.step.program import Program

UPDATE_ROUNDS, UPDATE_SECONDS = 2, 0.08
"""Updates may be short: they have so many rounds for one of whole steps, and so long a turn."""


def measure_costs(
    programs: Sequence[Program],
    batch: Batch,
    *,
    rounds: int,
    contestants: Sequence[Contestant] | None = None,
    steps_per_round: int = 4,
    mesh: MeshConfig | None = None,
    on_round: Callable[[int], None] = lambda done: None,
) -> list[CostRecord]:
    """Times every program's train step in turn, then every update, then compiles for a mesh.

    Args:
      programs: What to measure, all of one model and mesh; the first is the baseline.
      batch: The batch that every step sees.
      rounds: Rounds that count, after one that warms up.
      contestants: Whose programs they are; by default each optimizer under its class's name.
      steps_per_round: Steps of one program in a row within a round.
      mesh: Devices, not needed here, among which a step is shared out to count what they hold and
        exchange; None leaves that out.
      on_round: Called with the rounds of whole steps done.

    Returns:
      One record a program, in the order given.
    """
    names = contestants or [Contestant(program.config.optimizer) for program in programs]
    steps = take_turns(
        [step_runner(program, batch) for program in (*programs, programs[0])],
        [steps_per_round] * (len(programs) + 1),
        rounds,
        on_round,
    )
    updates = _update_costs(programs, batch, rounds)
    records = [
        _record(contestant, program, steps[:, column], steps, update)
        for column, (contestant, program, update) in enumerate(
            zip(names, programs, updates, strict=True)
        )
    ]
    if mesh is None:
        return records
    found = measure_mesh_costs([program.config for program in programs], mesh)
    return [
        dataclasses.replace(record, mesh_reason=cost)
        if isinstance(cost, str)
        else dataclasses.replace(record, mesh=cost)
        for record, cost in zip(records, found, strict=True)
    ]


def _update_costs(programs: Sequence[Program], batch: Batch, rounds: int) -> list[UpdateCost]:
    """Times every update, the baseline's once more, and a whole step of the baseline's in turn."""
    compiled = [compile_update(program) for program in programs]
    gradients = programs[0].init(seed=1).params  # As large as parameters, and not the same.
    runners = [
        update_runner(program, update, gradients)
        for program, (update, _) in zip(
            (*programs, programs[0]), (*compiled, compiled[0]), strict=True
        )
    ]
    whole_step = step_runner(programs[0], batch)
    steps = [steps_lasting(UPDATE_SECONDS, runners[0])] * len(runners)
    steps.append(steps_lasting(UPDATE_SECONDS, whole_step))
    seconds = take_turns([*runners, whole_step], steps, UPDATE_ROUNDS * rounds)
    baseline, control, whole = seconds[:, 0], seconds[:, -2], seconds[:, -1]
    costs = []
    for column, (update, compile_seconds) in enumerate(compiled):
        counted = update.cost_analysis() or {}
        costs.append(
            UpdateCost(
                rounds=len(seconds),
                seconds=float(np.median(seconds[:, column])),
                ratio=ratio(seconds[:, column], baseline),
                control=ratio(control, baseline),
                share=ratio(seconds[:, column], whole),
                compile_seconds=compile_seconds,
                flops=counted.get("flops"),
                bytes_accessed=counted.get("bytes accessed"),
            )
        )
    return costs


def _record(
    contestant: Contestant,
    program: Program,
    seconds: np.ndarray,
    all_seconds: np.ndarray,
    update: UpdateCost,
) -> CostRecord:
    baseline, control = all_seconds[:, 0], all_seconds[:, -1]
    own = ratio(seconds, baseline)
    counted = program.compiled_cost()
    return CostRecord(
        optimizer=contestant.name,
        title=contestant.title,
        step_ratio=own.median,
        ratio_low=own.low,
        ratio_high=own.high,
        rounds=len(seconds),
        step_seconds=float(np.median(seconds)),
        state_bytes_per_parameter=program.state_bytes_per_parameter(),
        peak_bytes=program.peak_bytes(),
        compile_seconds=program.compile_seconds,
        flops=counted.get("flops"),
        bytes_accessed=counted.get("bytes accessed"),
        step_control=ratio(control, baseline),
        update=update,
    )
