"""Batches of rows, each a function of the seed and the step alone.

Grain numbers the rows of a split anew in every epoch, and its data set is an endless list, so any
step is reached at once and any number of processes reads the same global batches. There is no state
to save but the step. One thread reads one batch ahead, while the caller waits for its device. More
threads or processes would be slower: rows are copied out of mapped memory faster than handed over.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grain
import numpy as np

from train.data.batches.rows import Batch, Rows
from train.data.documents import DataError


def train_batches(
    rows: Rows,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Endless shuffled batches; each epoch has every row once, in its own order.

    Args:
      rows: The training split.
      batch_size: Rows of the global batch.
      seed: Which order. Not negative.
      start_step: The step of the first batch.
      process_index: Which rows: those from `process_index * B` on, with B = `batch_size` /
        `process_count`.
      process_count: Among how many processes the rows are dealt out.

    Returns:
      Batches from `start_step` on.

    Raises:
      DataError: If the rows do not fill one batch.
      ValueError: If a number is out of range or the processes do not divide the batch.
    """
    share = _share(batch_size, process_index, process_count)
    if rows.trained < batch_size:
        raise DataError(
            f"{rows}, too few for a training batch of {batch_size}; take a smaller batch or "
            "context, or more text."
        )
    if seed < 0 or start_step < 0:
        raise ValueError(f"seed = {seed} and start_step = {start_step} must not be negative.")
    numbers = _order(rows, seed)

    def read(step: int) -> Batch:
        return rows.read(numbers(step * batch_size + process_index * share, share))

    return _read_ahead(read, start_step)


def train_rows(rows: Rows, batch_size: int, *, seed: int, step: int) -> np.ndarray:
    """The numbers of the rows of the global batch that `train_batches` gives at a step."""
    return _order(rows, seed)(step * batch_size, batch_size)


def validation_batches(
    rows: Rows,
    batch_size: int,
    *,
    max_batches: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """All rows of a split in their order, each target once; the last batch is filled up with 0.

    Args:
      rows: The validation split.
      batch_size: Rows of the global batch.
      max_batches: Stop after so many; all if None.
      process_index: As for `train_batches`.
      process_count: As for `train_batches`.

    Returns:
      Batches, the same every time.

    Raises:
      ValueError: If a number is out of range or the processes do not divide the batch.
    """
    share = _share(batch_size, process_index, process_count)
    if max_batches is not None and max_batches < 1:
        raise ValueError(f"max_batches is {max_batches}; it must be at least 1, or None for all.")
    batches = -(-len(rows) // batch_size)

    def read(batch: int) -> Batch:
        first = batch * batch_size + process_index * share
        return rows.read(np.arange(first, first + share))

    return map(read, range(batches if max_batches is None else min(max_batches, batches)))


def _order(rows: Rows, seed: int) -> Callable[[int, int], np.ndarray]:
    """The numbers of a stretch of the shuffled rows, from its first place and its length."""
    # Grain shuffles epoch e with seed + e, which would give neighbouring seeds the same epochs.
    (spread_seed,) = np.random.SeedSequence(seed).generate_state(1)
    order = grain.MapDataset.range(rows.trained).shuffle(seed=int(spread_seed)).repeat()
    return lambda first, count: np.array([order[place] for place in range(first, first + count)])


def _read_ahead(read: Callable[[int], Batch], start_step: int) -> Iterator[Batch]:
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="next-batch") as reader:
        ahead = reader.submit(read, start_step)
        for step in itertools.count(start_step + 1):
            batch = ahead.result()
            ahead = reader.submit(read, step)
            yield batch


def _share(batch_size: int, process_index: int, process_count: int) -> int:
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size} must be at least 1.")
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
