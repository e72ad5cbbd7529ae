"""One step of a run once more, looked at closely: `python -m train replay FOLDER --step N`.

From the last checkpoint before it, or from the start, a run is trained to a step again: the same
program, the same batches, the same bits. Nothing in its folder changes, and it may be under way.
Of that step's batch the loss of every token is computed, and the gradient of every layer, of which
a train step needs only the sums. B rows of a batch, T tokens of a row.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec

import optax_strat
from models.sharding import automatic
from train.config.plain import read_run_config
from train.config.run import RunConfig
from train.data import Place
from train.host import provenance
from train.host.distributed import refuse_several_processes
from train.inspection.out_of_memory import memory_explained
from train.records.lines import RunRecord, SpikeRecord, StepRecord, read_records
from train.run.checkpoints import run_checkpointer
from train.run.folder import CONFIG, RECORDS, imported_weights
from train.step.accumulation import mean_loss_and_gradient
from train.step.program import Program, build_program
from train.step.sharding import make_mesh, tracing_on
from train.step.state import TrainState
from train.tasks import Task, task_of
from train.tasks.task import Batch

EXCERPT = 64
"""Tokens that are shown of a row, up to the one that was predicted worst."""


@dataclass(frozen=True)
class Row:
    """One row of the step's batch."""

    number: int
    """In the training split."""
    loss: float
    """Mean over its tokens, in the task's unit."""
    places: tuple[Place, ...]
    """Where its tokens come from."""
    worst_loss: float
    """Of its worst token, in nats."""
    excerpt: str
    """The text up to that token."""


@dataclass(frozen=True)
class Replay:
    """What a step saw and did; norms are by layer type where nothing else is said."""

    step: int
    started_from: int
    """The step of the checkpoint; 0 is the start of the run."""
    loss: float
    recorded_loss: float | None
    """None if the run has not recorded the step."""
    differences: tuple[str, ...]
    """In what this machine and code are not those that the run was begun with."""
    skipped: bool
    """Whether the gradients were not finite, so that nothing changed."""
    learning_rate: float
    grad_norm: float
    grad_norms: dict[str, float]
    update_norms: dict[str, float]
    param_norms: dict[str, float]
    layers: dict[str, float]
    """Norm of the gradient of each layer, the largest first."""
    rows: tuple[Row, ...]
    """The rows of the batch, the one of the highest loss first."""

    @property
    def is_exact(self) -> bool | None:
        """Whether the loss is the recorded one to the last bit; None if none was recorded."""
        if self.recorded_loss is None:
            return None
        both_nan = math.isnan(self.loss) and math.isnan(self.recorded_loss)
        return both_nan or self.loss == self.recorded_loss


def replay(
    folder: Path,
    step: int,
    *,
    program: Program | None = None,
    on_step: Callable[[int], None] = lambda step: None,
) -> Replay:
    """Trains a run up to a step, and looks at that.

    Args:
      folder: The run's, finished or not.
      step: The first is 1; it may lie ahead of what the run has done.
      program: A program of the run's configuration, to save its compilation.
      on_step: Told of every step that was done.

    Raises:
      ValueError: If the folder holds no run, the run has no such step, or data or devices are not
        the run's; nothing is changed.
    """
    refuse_several_processes("replay", os.environ)
    config = read_run_config(folder / CONFIG)
    if not 1 <= step <= config.steps:
        raise ValueError(f"--step {step}: the steps of {folder} are 1 to {config.steps}.")
    _check_devices(config, folder)
    task = program.task if program else task_of(config)
    record, recorded_loss = _recorded(folder / RECORDS, step)
    if record and record.data.fingerprint != task.data().fingerprint:
        raise ValueError(
            f"{config.data.cache_dir} holds other data than {folder} was trained on: prepare that "
            "again, from the same source and with the same tokenizer."
        )
    with memory_explained(config):
        program = program or build_program(config, task)
        state, start = _state_before(step, folder, config, program)
        batches = task.train_batches(seed=config.seed, start_step=start)
        for done in range(start + 1, step):
            state, metrics = program.train_step(state, next(batches))
            jax.block_until_ready(metrics["loss"])
            on_step(done)
        batch = next(batches)
        losses_BT, layers = look_at_batch(program, state.params, batch)
        _, metrics = program.train_step(state, batch)
    told = jax.tree.map(lambda number: float(str(number)), jax.device_get(metrics))
    on_step(step)
    return Replay(
        step=step,
        started_from=start,
        recorded_loss=recorded_loss,
        differences=_differences(record),
        skipped=told.pop("consecutive_skips") > 0,
        layers=layers,
        rows=_rows(task, config.seed, step, batch, losses_BT),
        **{name: told[name] for name in told if name != "skipped"},
    )


def _check_devices(config: RunConfig, folder: Path) -> None:
    try:
        make_mesh(config.mesh)
    except ValueError:
        raise ValueError(
            f"{folder} was trained with {config.mesh}, which the {jax.device_count()} devices here "
            "cannot make: replay it on as many as it had."
        ) from None


def _recorded(path: Path, step: int) -> tuple[RunRecord | None, float | None]:
    """How the run was begun, and the loss that it recorded at a step."""
    if not path.exists():
        return None, None
    records = read_records(path, notice=lambda torn: None)  # It may be writing a line right now.
    run = next((record for record in records if isinstance(record, RunRecord)), None)
    losses = [
        record.loss
        for record in records
        if isinstance(record, StepRecord | SpikeRecord) and record.step == step
    ]
    return run, losses[0] if losses else None


def _state_before(
    step: int, folder: Path, config: RunConfig, program: Program
) -> tuple[TrainState, int]:
    """The state before a step or earlier, and how many steps it has done."""
    checkpointer = run_checkpointer(folder, config, program.task.data().fingerprint)
    try:
        restored = checkpointer.restore_before(step, program.target)
    finally:
        checkpointer.close()
    if restored is not None:
        return restored.state, int(restored.state.step)
    if imported_weights(folder):
        raise ValueError(
            f"{folder} began with imported weights, and no checkpoint of it from before step "
            f"{step} is left: import them again into another folder, and replay that."
        )
    return program.init(config.seed), 0


def _differences(run: RunRecord | None) -> tuple[str, ...]:
    if run is None:
        return ()
    here = {"device": provenance.device(), "devices": str(provenance.device_count())}
    there = {"device": run.device, "devices": str(run.device_count)}
    here |= {"commit": provenance.commit()} | provenance.versions()
    there |= {"commit": run.commit} | run.versions
    return tuple(
        f"{name} {there[name]} there, {here[name]} here"
        for name in here
        if name in there and here[name] != there[name]
    )


def _rows(
    task: Task, seed: int, step: int, batch: Batch, losses_BT: np.ndarray | None
) -> tuple[Row, ...]:
    """The rows of a step's batch; none of a task without text."""
    text = task.text
    if text is None or losses_BT is None:
        return ()
    means_B = text.row_losses(losses_BT, batch)
    rows = []
    for row, (number, places) in enumerate(text.places(seed=seed, step=step - 1)):
        worst = int(losses_BT[row].argmax())
        rows.append(
            Row(
                number=number,
                loss=float(means_B[row]),
                places=places,
                worst_loss=float(losses_BT[row, worst]),
                excerpt=text.excerpt(batch, row, worst, EXCERPT),
            )
        )
    return tuple(sorted(rows, key=lambda row: -np.nan_to_num(row.loss, nan=np.inf)))


def look_at_batch(
    program: Program, params: Any, batch: Batch
) -> tuple[np.ndarray | None, dict[str, float]]:
    """Compiles and runs what a train step leaves out.

    Args:
      program: The run's program.
      params: Parameters, on the program's mesh.
      batch: As the data gives it.

    Returns:
      The losses of tokens, float32 [B, T], 0 where the row is filled up, or None if the task has no
      text; and the norm of each layer's
      gradient by its name, those that are not finite first, then from the largest on.
    """
    task, accumulate = program.task, program.config.accumulate
    text = task.text
    layers = [row.layers for row in optax_strat.describe(params, layers=task.layers).rows]

    def look(params: Any, batch: Batch) -> tuple[Array | None, Array]:
        losses_BT = text.token_losses(params, batch) if text else None
        _, grads = mean_loss_and_gradient(task.loss, params, batch, accumulate)
        return losses_BT, _norms(grads, layers)

    with tracing_on(program.mesh):
        compiled = jax.jit(automatic(look, (PartitionSpec(), PartitionSpec())))
        losses_BT, norms = jax.device_get(compiled(params, program.place(batch)))
    named = zip(optax_strat.strata_names(params), norms.tolist(), strict=True)
    return losses_BT, dict(sorted(named, key=lambda pair: -np.nan_to_num(pair[1], nan=np.inf)))


def _norms(grads: Any, layers: list[int]) -> Array:
    """The norms of all layers, in the order of `optax_strat.strata_names`."""
    leaves = jax.tree.leaves(grads)
    return jnp.concatenate(
        [
            jnp.linalg.norm(leaf.reshape(count, -1), axis=1)
            for leaf, count in zip(leaves, layers, strict=True)
        ]
    )
