"""Compiling for GPUs that are described and not there."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import jax
from jax.experimental import topologies

from models.attention import resolve_kind
from train.config import RunConfig
from train.optimizers import build_optimizer
from train.program import abstract_batch, compile_train_step
from train.sharding import make_mesh
from train.state import abstract_state


def temporary_bytes(config: RunConfig, target: Path, devices: int) -> int:
    """What the compiled train step holds on each device besides its state and its batch.

    Args:
      config: The run.
      target: XLA's description of a GPU, such as `benchmarks/h100_target.txtpb`.
      devices: How many of them there would be, all in one node.

    Raises:
      ValueError: If JAX's CUDA plugin, which has the compiler, or cuDNN is not installed.
    """
    mesh = make_mesh(config.mesh, _described(target, devices))
    kind = resolve_kind(config.model, "gpu")  # 'auto' would look at the platform here.
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, attention=kind))
    optimizer = build_optimizer(config.optimizer, config.schedule, config.steps)
    state = abstract_state(config.model, optimizer.transformation, mesh)
    try:
        compiled = compile_train_step(config, optimizer, mesh, state, abstract_batch(config, mesh))
    except RuntimeError as error:
        raise ValueError(
            f"the step could not be compiled for {target} ({error}): cuDNN is needed as well as "
            "JAX's CUDA plugin; install it, or leave the target out for an estimate."
        ) from error
    return compiled.memory_analysis().temp_size_in_bytes  # type: ignore[union-attr]


def _described(target: Path, count: int) -> list[jax.Device]:
    # The plugin would look for a driver, which compiling does not need.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    try:
        node = topologies.get_topology_desc(
            platform="cuda",
            topology_name="described",
            topology=f"1x1x{count}",
            target_config=target.read_text(),
        )
    except (NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"{target} can only be compiled for with JAX's CUDA plugin (`JAX=cuda12 make test` "
            "installs it): leave the target out for an estimate."
        ) from error
    return list(node.devices)
