"""A close look at one batch: the loss of every token in it, and the gradient of every layer.

A train step computes neither: it needs only their sums. B rows of a batch, T tokens of a row.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec

import optax_strat
from models.sharding import automatic
from train.step.accumulation import mean_loss_and_gradient
from train.step.program import Program
from train.step.sharding import tracing_on
from train.tasks.task import Batch


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
    text = task.text() if task.text else None
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
