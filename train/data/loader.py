"""Batches of shifted windows, each a function of the seed and the step alone.

The tokens of a split are cut into windows of `context` tokens whose targets are the tokens one
further. Grain numbers the windows anew in every epoch, and its data set is an endless list, so any
step is reached at once and any number of processes reads the same global batches. There is no state
to save but the step. Nothing runs in the background: copying windows out of mapped memory is faster
than handing them from one thread or process to another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import grain
import numpy as np

from train.data.errors import DataError
from train.data.stream import TokenStream


class Batch(NamedTuple):
    """What one step reads; B counts the rows of this process, T is the context.

    NumPy arrays as the loader gives them, `jax.Array`s once they are on the devices.
    """

    inputs_BT: Any
    """int32."""
    targets_BT: Any
    """int32: the token after each input."""
    weights_BT: Any
    """float32: 1, or 0 where a validation batch is filled up."""


def train_batches(
    tokens: TokenStream,
    batch_size: int,
    context: int,
    *,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Endless shuffled batches; each epoch has every window once, in its own order.

    Args:
      tokens: The training split.
      batch_size: Rows of the global batch.
      context: Tokens in a row, T.
      seed: Which order. Not negative.
      start_step: The step of the first batch.
      process_index: Which rows: those from `process_index * B` on, with B = `batch_size` /
        `process_count`.
      process_count: Among how many processes the rows are dealt out.

    Returns:
      Batches from `start_step` on.

    Raises:
      DataError: If the tokens do not fill one batch.
      ValueError: If a number is out of range or the processes do not divide the batch.
    """
    rows = _rows(batch_size, context, process_index, process_count)
    windows = (len(tokens) - 1) // context
    if windows < batch_size:
        raise DataError(
            f"{len(tokens)} training tokens make {windows} windows of {context}, too few for one "
            f"batch of {batch_size}; take a smaller batch or context, or more text."
        )
    if seed < 0 or start_step < 0:
        raise ValueError(f"seed = {seed} and start_step = {start_step} must not be negative.")
    # Grain shuffles epoch e with seed + e, which would give neighbouring seeds the same epochs.
    (spread_seed,) = np.random.SeedSequence(seed).generate_state(1)
    order = grain.MapDataset.range(windows).shuffle(seed=int(spread_seed)).repeat()
    own = order.batch(rows, drop_remainder=True)[
        start_step * process_count + process_index :: process_count
    ]
    weights_BT = np.ones((rows, context), np.float32)
    weights_BT.flags.writeable = False  # All batches share it.

    def read(numbers_B: np.ndarray) -> Batch:
        windows_BT1 = tokens.windows(numbers_B * context, context + 1)
        return Batch(windows_BT1[:, :-1], windows_BT1[:, 1:], weights_BT)

    in_this_thread = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    return iter(own.map(read).to_iter_dataset(in_this_thread))


def validation_batches(
    tokens: TokenStream,
    batch_size: int,
    context: int,
    *,
    max_batches: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """All windows of a split in their order, each target once; the last batch is filled up with 0.

    Args:
      tokens: The validation split.
      batch_size: Rows of the global batch.
      context: Tokens in a row, T.
      max_batches: Stop after so many; all if None.
      process_index: As for `train_batches`.
      process_count: As for `train_batches`.

    Returns:
      Batches, the same every time.

    Raises:
      ValueError: If a number is out of range or the processes do not divide the batch.
    """
    rows = _rows(batch_size, context, process_index, process_count)
    if max_batches is not None and max_batches < 1:
        raise ValueError(f"max_batches is {max_batches}; it must be at least 1, or None for all.")
    targets = len(tokens) - 1
    batches = -(-targets // (batch_size * context))

    def read(batch: int) -> Batch:
        block_BT1 = np.zeros((rows, context + 1), np.int32)
        weights_BT = np.zeros((rows, context), np.float32)
        first = (batch * batch_size + process_index * rows) * context
        for row, start in enumerate(range(first, min(first + rows * context, targets), context)):
            length = min(context, targets - start)
            block_BT1[row, : length + 1] = tokens.windows([start], length + 1)
            weights_BT[row, :length] = 1.0
        return Batch(block_BT1[:, :-1], block_BT1[:, 1:], weights_BT)

    return map(read, range(batches if max_batches is None else min(max_batches, batches)))


def _rows(batch_size: int, context: int, process_index: int, process_count: int) -> int:
    if batch_size < 1 or context < 1:
        raise ValueError(
            f"batch_size = {batch_size} and context = {context} must both be at least 1."
        )
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index = {process_index} must lie between 0 and process_count - 1 = "
            f"{process_count - 1}."
        )
    if batch_size % process_count:
        raise ValueError(
            f"batch_size = {batch_size} cannot be dealt out among {process_count} processes; take "
            f"a multiple, such as {-(-batch_size // process_count) * process_count}."
        )
    return batch_size // process_count
