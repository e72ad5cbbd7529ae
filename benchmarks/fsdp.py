"""A whole train step compiled for a mesh that shares out parameters and state, and never run."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

import models
from train.config import MeshConfig, ScheduleConfig
from train.data import Batch
from train.optimizer_configs import OptimizerConfig
from train.optimizers import build_optimizer
from train.sharding import batch_sharding, make_mesh, tracing_on
from train.state import abstract_state
from train.step import make_train_step


def compile_step(
    optimizer: OptimizerConfig,
    model: models.TransformerConfig,
    devices: Sequence[jax.Device],
) -> jax.stages.Compiled:
    """The real train step, one sequence a device, with fully sharded parameters."""
    mesh = make_mesh(MeshConfig(data=1, fsdp=len(devices)), list(devices))
    built = build_optimizer(optimizer, ScheduleConfig(), steps=100)
    target = abstract_state(model, built.transformation, mesh)
    sharding = batch_sharding(mesh, len(devices))
    tokens_BT, weights_BT = (
        jax.ShapeDtypeStruct((len(devices), model.context), dtype, sharding=sharding)
        for dtype in (jnp.int32, jnp.float32)
    )
    step = jax.jit(
        make_train_step(model, built),
        donate_argnums=0,
        out_shardings=(jax.tree.map(lambda leaf: leaf.sharding, target), None),
    )
    with tracing_on(mesh):
        traced = step.trace(target, Batch(tokens_BT, tokens_BT, weights_BT))
        return traced.lower().compile()
