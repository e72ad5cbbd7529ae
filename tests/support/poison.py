"""Gradients that are not finite, in chosen steps of a real run, without a hook in the code.

A batch carries its own poison: the weights of its first row, which are all 1 in a batch that is
well, multiply one entry of one leaf of the gradient each.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import tiny
from train.step import train_step
from train.step.accumulation import mean_loss_and_gradient

LEAVES = len(jax.tree.leaves(tiny.params()))
"""Of the tiny model: fewer than the tokens of a row."""


def spoil_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets train steps that are compiled from now on multiply by the poison of their batch."""

    def spoiled(summed_loss, params, batch, micro_batches=1):
        poison_T = batch.weights_BT[0]
        well = batch._replace(weights_BT=jnp.ones_like(batch.weights_BT))
        loss, grads = mean_loss_and_gradient(summed_loss, params, well, micro_batches)
        leaves, treedef = jax.tree.flatten(grads)
        for number, leaf in enumerate(leaves):  # The last entry lies on one device alone.
            leaves[number] = leaf.at[(-1,) * leaf.ndim].multiply(poison_T[number])
        return loss, jax.tree.unflatten(treedef, leaves)

    monkeypatch.setattr(train_step, "mean_loss_and_gradient", spoiled)


def poisoned(batch, leaf, value):
    """The batch with a poison for one leaf, given by its number, or for all of them."""
    weights_BT = np.array(batch.weights_BT)
    weights_BT[0, slice(LEAVES) if leaf == "all" else leaf] = value
    return batch._replace(weights_BT=weights_BT)


class PoisonedData:
    """A data set some of whose training batches are poisoned.

    Args:
      dataset: The data set.
      poisons: By step, the first being 1: the leaf and the value, as for `poisoned`.
    """

    def __init__(self, dataset, poisons: Mapping[int, tuple[int | str, float]]):
        self._dataset, self._poisons = dataset, poisons

    def __getattr__(self, name):
        return getattr(self._dataset, name)

    def train_batches(self, *args, start_step=0, **kwargs):
        batches = self._dataset.train_batches(*args, start_step=start_step, **kwargs)
        for number, batch in zip(itertools.count(start_step + 1), batches, strict=False):
            yield poisoned(batch, *self._poisons[number]) if number in self._poisons else batch
