"""Weights out of a run, and into a new one.

A run that begins with given weights has a checkpoint of step 0: those parameters, and the state
that its optimizer starts from. Training goes on from it as from any other, so the run's first
evaluation is theirs. Neither way needs an accelerator, whatever the run's mesh is.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from train.config.plain import config_hash, read_run_config, to_dict
from train.config.run import MeshConfig, RunConfig
from train.run.checkpoint_checks import check_step
from train.run.checkpoint_folders import damage, read_newest_whole, steps
from train.run.checkpoints import run_checkpointer
from train.run.folder import (
    CHECKPOINTS,
    CONFIG,
    IMPORTED,
    RECORDS,
    Imported,
    check_writable,
    claim,
    held,
    write_config,
)
from train.run.training_clock import NOTHING_SPENT
from train.run.weights import About, load_weights, read_about, save_weights
from train.step.optimizer import build_optimizer
from train.step.sharding import make_mesh, replicated
from train.step.state import TrainState, abstract_state
from train.tasks import task_of
from train.tasks.task import Params, Task


def export_weights(run: Path, out: Path, *, step: int | None = None, stacked: bool = True) -> Path:
    """Writes a run's parameters as safetensors; the run may go on meanwhile.

    Args:
      run: Its folder.
      out: Where the files go, see `train.run.weights.save_weights`.
      step: Of which checkpoint; by default the newest whole one.
      stacked: Whether the layers stay stacked, or get a tensor each.

    Returns:
      The path of the tensors.

    Raises:
      ValueError: If the folder holds no run or no such checkpoint that is whole, or the files can
        not be written.
      DiskError: If there is no room for them.
    """
    config = read_run_config(run / CONFIG)
    check_writable(out)
    checkpoints, task = run / CHECKPOINTS, task_of(config)
    newest = read_newest_whole(
        checkpoints,
        lambda saved: step in (None, saved),
        lambda saved: (saved, _read_params(checkpoints / str(saved), task)),
    )
    if newest is None:
        raise ValueError(_nothing_whole(checkpoints, step))
    chosen, params = newest
    about = About(config_hash=config_hash(config), step=chosen, model=to_dict(config.model))
    return save_weights(out, params, about, stacked=stacked)


def import_weights(path: Path, config: RunConfig, folder: Path) -> None:
    """Makes the folder of a run that begins with the parameters of a file.

    Args:
      path: What `export_weights` or `train.run.weights.save_weights` wrote.
      config: The run. Its seed decides the order of the data alone.
      folder: Where it goes. After a crash the same call can be made again.

    Raises:
      ValueError: If the folder holds a run that has begun, or the weights do not fit the model.
    """
    task = task_of(config)
    fingerprint = task.data().fingerprint
    state = _first_state(path, config, task)
    with held(folder):
        claim(folder, config)
        checkpointer = run_checkpointer(folder, config, fingerprint)
        try:
            if (folder / RECORDS).exists() or checkpointer.latest_step() is not None:
                raise ValueError(
                    f"{folder} holds a run that has begun: choose another --out, or move it away."
                )
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            about = read_about(path)
            write_config(folder / IMPORTED, Imported(digest, about.config_hash, about.step))
            checkpointer.save(0, state, NOTHING_SPENT)
        finally:
            checkpointer.close()


def _first_state(path: Path, config: RunConfig, task: Task) -> TrainState:
    """The state before the first step, on one device: checkpoints restore onto any mesh."""
    optimizer = build_optimizer(config.optimizer, config.schedule, config.steps).transformation
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    target = abstract_state(task, optimizer, mesh).params
    params = load_weights(path, to_dict(config.model), target)
    opt_state = jax.jit(optimizer.init, out_shardings=replicated(mesh))(params)
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state)


def _nothing_whole(folder: Path, step: int | None) -> str:
    known = steps(folder)
    damaged = [
        f"that of {saved} is damaged ({fault})"
        for saved in reversed(known)
        if step in (None, saved) and (fault := damage(folder, saved))
    ]
    which = "whole checkpoint" if step is None else f"whole checkpoint of step {step}"
    there = f"those there are of steps {', '.join(map(str, known))}" if known else "there is none"
    return f"{folder} holds no {which}: {'; '.join(damaged) or there}."


def _read_params(checkpoint: Path, task: Task) -> Params:
    """The parameters alone, on the host; the optimizer's state is not read."""
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    as_arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
    handler = ocp.CompositeCheckpointHandler(
        params=ocp.PyTreeCheckpointHandler(), data=ocp.JsonCheckpointHandler()
    )
    with ocp.Checkpointer(handler) as reader:
        items = reader.restore(
            checkpoint.absolute(),
            ocp.args.Composite(
                params=ocp.args.PyTreeRestore(shapes, as_arrays), data=ocp.args.JsonRestore()
            ),
        )
    check_step(checkpoint, items["data"])
    return items["params"]
