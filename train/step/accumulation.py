"""Gradient accumulation: the gradient of a batch that is too large for memory, part by part.

B rows of a batch, A micro-batches, C = B / A rows of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AbstractMesh, Mesh

from models.sharding import constrain
from train.tasks.task import Batch, Params

SummedLoss = Callable[[Params, Batch], tuple[Array, Array]]
"""`(params, batch) -> (sum of the losses, sum of the weights)`."""


def mean_loss_and_gradient(
    summed_loss: SummedLoss, params: Any, batch: Batch, micro_batches: int = 1
) -> tuple[Array, Any]:
    """The mean loss over a batch's weights and its gradient, as if all rows were seen at once.

    The micro-batches' losses and gradients are summed, and divided by the weight of the whole
    batch: a mean of their means would count the tokens of a half-empty one twice.

    Args:
      summed_loss: The loss.
      params: What to differentiate by.
      batch: Every leaf has B rows; A must divide B, and on a mesh also a device's rows.
      micro_batches: A. The memory of activations shrinks by it.

    Returns:
      The mean loss and its gradient.

    Example:
      >>> from train.data import Batch
      >>> weights = jnp.array([[1.0], [1.0], [1.0], [0.0]])
      >>> batch = Batch(jnp.array([[1.0], [2.0], [6.0], [9.0]]), None, weights)
      >>> def summed_loss(slope, batch):
      ...     return (slope * batch.inputs_BT * batch.weights_BT).sum(), batch.weights_BT.sum()
      >>> mean, gradient = mean_loss_and_gradient(summed_loss, 2.0, batch, micro_batches=2)
      >>> float(mean), float(gradient)
      (6.0, 3.0)
    """
    if micro_batches == 1:

        def mean_loss(params: Params) -> Array:
            total, weight = summed_loss(params, batch)
            return total / weight

        return jax.value_and_grad(mean_loss)(params)

    def add(sums: Any, micro_batch: Batch) -> tuple[Any, None]:
        more = jax.value_and_grad(summed_loss, has_aux=True)(params, micro_batch)
        return jax.tree.map(jnp.add, sums, more), None

    zeros = ((jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, params))
    parts = jax.tree.map(lambda rows: _deal(rows, micro_batches), batch)
    (total, weight), gradient = jax.lax.scan(add, zeros, parts)[0]
    return jax.tree.map(lambda summed: summed / weight, (total, gradient))


def check_micro_batches(batch_size: int, micro_batches: int, mesh: Mesh | AbstractMesh) -> None:
    """Refuses micro-batches whose rows cannot be shared out among the devices.

    Raises:
      ValueError: With the numbers that would fit.
    """
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    rows, rest = divmod(batch_size, devices)
    if not rest and rows % micro_batches:
        fitting = ", ".join(str(count) for count in range(1, rows + 1) if rows % count == 0)
        raise ValueError(
            f"accumulate={micro_batches} does not divide the {rows} sequences of a device "
            f"(batch_size={batch_size} over data x fsdp = {devices}): choose among {fitting}."
        )


def _deal(rows_B: Array, micro_batches: int) -> Array:
    """[B, ...] to [A, C, ...]: every A-th row to a micro-batch, so that none leaves its device."""
    rows_CA = rows_B.reshape(-1, micro_batches, *rows_B.shape[1:])
    rows_AC = rows_CA.swapaxes(0, 1)
    return constrain(rows_AC, None, "batch", *(None for _ in rows_AC.shape[2:]))
