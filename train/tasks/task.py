"""What is trained, as the harness sees it: initial parameters, a loss, batches, and their units."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from jax import Array

from optax_strat import Layers
from train.records.kinds import DataSummary

Params = Any
"""A pytree of arrays."""

Batch = Any
"""A pytree of arrays, each with one row for every example on its first dimension."""


class Text(Protocol):
    """What a task over text can say beyond its loss, for people who look at a batch."""

    def token_losses(self, params: Params, batch: Batch) -> Array:
        """The loss of every token, float32 [rows, tokens]; 0 where a row is filled up."""

    def row_losses(self, losses: np.ndarray, batch: Batch) -> np.ndarray:
        """The mean loss of every row, from `token_losses`."""

    def places(self, *, seed: int, step: int) -> list[tuple[int, tuple[Any, ...]]]:
        """Of every row of a training batch its number in the data, and where its tokens lie."""

    def excerpt(self, batch: Batch, row: int, end: int, tokens: int) -> str:
        """The text of at most `tokens` targets of a row, up to position `end`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What is trained. Everything but the first seven fields is optional.

    The step, the loop, comparisons and reports know a task by these fields and nothing else of
    models or data; a field that is None leaves out what would need it.
    """

    name: str
    """Of the model, as reports print it."""
    init: Callable[[Array], Params]
    """`key -> parameters`."""
    loss: Callable[[Params, Batch], tuple[Array, Array]]
    """`(params, batch) -> (sum of the losses, sum of the weights)`, float32 scalars; their ratio
    over any set of batches is the mean loss."""
    batch: Batch
    """Shapes and dtypes of a whole batch, a pytree of `jax.ShapeDtypeStruct`."""
    train_batches: Callable[..., Iterator[Batch]]
    """`(seed=, start_step=, process_index=, process_count=)` gives endless training batches from a
    step on: of `process_count` equal parts of each batch's rows, the part of `process_index`."""
    validation_batches: Callable[..., Iterator[Batch]]
    """`(process_index=, process_count=)` gives the validation batches once, shared out likewise."""
    data: Callable[[], DataSummary]
    """What the data are; opens them at the first call.

    Raises:
      ValueError: If they cannot be read, or do not fit the model.
    """
    tokens_per_step: int
    """Tokens (or examples, where there are no tokens) that a training step sees."""
    unit: str = "nats an example"
    """Of the loss."""
    bits_per_byte: Callable[[float], float] | None = None
    """A loss as bits a byte of text, which compares tokenizers."""
    flops_per_token: float | None = None
    """Floating-point operations of a training step for each of its tokens."""
    flops_formula: str = ""
    """How these are counted, for people."""
    logical_axes: Any = None
    """For each parameter a tuple that names its dimensions, as `train.step.sharding.RULES` knows
    them; None replicates the parameters."""
    layers: Layers = field(default_factory=Layers)
    """How the parameters' layer types are found."""
    activation_bytes: Callable[[str], float] | None = None
    """`platform -> bytes` that a device holds between forward and backward pass, at the most."""
    text: Text | None = None
    """Details of batches of text."""
