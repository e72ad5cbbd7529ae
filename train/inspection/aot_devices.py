"""Compiling for GPUs that are described and not there."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import jax
from jax.experimental import topologies

from models.attention import resolve_kind
from train.config.run import RunConfig
from train.step.program import compile_ahead
from train.step.sharding import make_mesh
from train.tasks import task_of

INSTALL = "(`JAX=cuda12 make test` installs it): leave the target out for an estimate."


def temporary_bytes(config: RunConfig, target: Path, devices: int) -> int:
    """What the compiled train step holds on each device besides its state and its batch.

    Args:
      config: The run.
      target: XLA's description of a GPU, such as `benchmarks/h100_target.txtpb`.
      devices: How many of them there would be, all in one node.

    Raises:
      ValueError: If JAX's CUDA plugin, which has the compiler, or cuDNN is not installed.
    """
    mesh = make_mesh(config.mesh, described_devices(target, devices, INSTALL))
    kind = resolve_kind(config.model, "gpu")  # 'auto' would look at the platform here.
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, attention=kind))
    try:
        compiled = compile_ahead(config, task_of(config), mesh)
    except RuntimeError as error:
        raise ValueError(
            f"the step could not be compiled for {target} ({error}): cuDNN is needed as well as "
            "JAX's CUDA plugin; install it, or leave the target out for an estimate."
        ) from error
    return compiled.memory_analysis().temp_size_in_bytes  # type: ignore[union-attr]


def described_devices(target: Path, count: int, cure: str) -> list[jax.Device]:
    """GPUs of one node, to be named in shardings and compiled for.

    Args:
      target: XLA's description of one.
      count: How many.
      cure: Where JAX's CUDA plugin comes from, which has the compiler.

    Raises:
      ValueError: If the plugin is not installed.
    """
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
            f"{target} can only be compiled for with JAX's CUDA plugin {cure}"
        ) from error
    return list(node.devices)
