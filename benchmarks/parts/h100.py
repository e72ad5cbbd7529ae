"""Compiling for an H100 on a machine that has none.

JAX's CUDA plugin compiles for a described target: one device, or a mesh of them that shares out
parameters and state. It needs three wheels (`locks/h100.txt`), and neither a driver nor the rest of
CUDA. What comes out says what a program moves, launches and holds; how long it takes, only a GPU
can say.
"""

from collections.abc import Sequence
from pathlib import Path

import jax

import models
from train.config.run import MeshConfig, RunConfig
from train.inspection.plan import described_devices
from train.optimizers import OptimizerConfig
from train.step.program import compile_ahead
from train.step.sharding import make_mesh
from train.tasks import task_of

TARGET = Path(__file__).parents[1] / "h100_target.txtpb"


def devices(count: int = 1) -> list[jax.Device]:
    """That many H100s of one node, to be named in shardings and compiled for.

    Raises:
      ValueError: The CUDA plugin is not installed.
    """
    return described_devices(TARGET, count, "(`make bench-h100` sets it up).")


def compile_step(
    optimizer: OptimizerConfig,
    model: models.TransformerConfig,
    devices: Sequence[jax.Device],
) -> jax.stages.Compiled:
    """The real train step, one sequence a device, with fully sharded parameters."""
    config = RunConfig(
        model=model,
        optimizer=optimizer,
        mesh=MeshConfig(data=1, fsdp=len(devices)),
        batch_size=len(devices),
        context=model.context,
    )
    return compile_ahead(config, task_of(config), make_mesh(config.mesh, list(devices)))
