"""A whole train step compiled for a mesh that shares out parameters and state, and never run."""

from collections.abc import Sequence

import jax

import models
from train.config.run import MeshConfig, RunConfig
from train.optimizers.settings import OptimizerConfig
from train.step.program import compile_ahead
from train.step.sharding import make_mesh


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
    return compile_ahead(config, make_mesh(config.mesh, list(devices)))
