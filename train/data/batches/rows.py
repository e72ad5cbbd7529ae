"""The rows that batches are made of: equal windows of the whole stream, or packed documents."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol

import numpy as np

from train.data.batches.packing import Packing, check_context
from train.data.batches.stream import TokenStream


class Batch(NamedTuple):
    """What one step reads; B counts the rows of this process, T is the context.

    NumPy arrays as the loader gives them, `jax.Array`s once they are on the devices.
    """

    inputs_BT: Any
    """int32."""
    targets_BT: Any
    """int32: the token after each input."""
    weights_BT: Any
    """float32: 1, or 0 where a row is filled up."""
    segment_ids_BT: Any = None
    """int32: which document of its row a token belongs to, from 1 on, and 0 where the row is filled
    up. None where rows are windows, which know no documents."""


class Rows(Protocol):
    """The rows of a split by number, each of `context` positions."""

    context: int
    trained: int
    """Training reads the rows with a smaller number than this."""
    padding: float
    """The share of their positions that hold no token."""

    def __len__(self) -> int:
        """Rows of the split; validation reads them all."""
        ...

    def __str__(self) -> str:
        """What there is, for messages."""
        ...

    def read(self, numbers_B: np.ndarray) -> Batch:
        """The rows of these numbers; one past the end has nothing but weights of 0."""
        ...

    def pieces(self, number: int) -> list[tuple[int, int]]:
        """Where each piece of a row that is trained on starts in the stream, and its length."""
        ...


class Windows:
    """The stream cut into rows of `context` tokens, whose targets are the tokens one further.

    Training leaves out the last window if it is not full.

    Args:
      tokens: A split.
      context: Tokens in a row, T; at least 1.

    Raises:
      ValueError: If the context is out of range.
    """

    def __init__(self, tokens: TokenStream, context: int) -> None:
        check_context(context)
        self.context = context
        self._tokens = tokens
        self._targets = len(tokens) - 1
        self.trained = self._targets // context
        self.padding = 0.0

    def __len__(self) -> int:
        return -(-self._targets // self.context)

    def __str__(self) -> str:
        return f"{self._targets + 1} tokens make {self.trained} windows of {self.context}"

    def read(self, numbers_B: np.ndarray) -> Batch:
        """Shifted windows; only one that is not full has weights of 0."""
        if numbers_B.max() < self.trained:
            block_BT1 = self._tokens.windows(numbers_B * self.context, self.context + 1)
            weights_BT = _ones(block_BT1[:, 1:].shape)
        else:
            block_BT1 = np.zeros((len(numbers_B), self.context + 1), np.int32)
            weights_BT = np.zeros((len(numbers_B), self.context), np.float32)
            for row, start in enumerate(numbers_B * self.context):
                length = min(self.context, self._targets - start)
                if length > 0:
                    self._tokens.copy(start, block_BT1[row, : length + 1])
                    weights_BT[row, :length] = 1.0
        return Batch(block_BT1[:, :-1], block_BT1[:, 1:], weights_BT)

    def pieces(self, number: int) -> list[tuple[int, int]]:
        """One piece, the window."""
        return [(number * self.context, self.context)]


class PackedDocuments:
    """Rows of whole documents, or of pieces of those that are longer than a row.

    The input of a document begins with the end-of-document token before it, and its last target is
    the one after it. So each token of a split but the first is predicted once, as it is from
    windows, from nothing but what comes before it in its own document.

    Args:
      tokens: A split.
      packing: Where its pieces go.
    """

    def __init__(self, tokens: TokenStream, packing: Packing) -> None:
        self.context = packing.context
        self._tokens = tokens
        self._packing = packing
        self.trained = len(packing)
        self.padding = packing.padding

    def __len__(self) -> int:
        return len(self._packing)

    def __str__(self) -> str:
        return f"{len(self._tokens)} tokens make {len(self)} rows of {self.context}"

    def read(self, numbers_B: np.ndarray) -> Batch:
        """Packed rows with their segments."""
        shape = (len(numbers_B), self.context)
        inputs_BT, targets_BT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        weights_BT, segment_ids_BT = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
        for row, number in enumerate(numbers_B):
            if number >= len(self):
                continue
            end = 0
            for segment, (start, length) in enumerate(self._packing.row(number), start=1):
                begin, end = end, end + length
                self._tokens.copy(start, inputs_BT[row, begin:end])
                self._tokens.copy(start + 1, targets_BT[row, begin:end])
                segment_ids_BT[row, begin:end] = segment
            weights_BT[row, :end] = 1.0
        return Batch(inputs_BT, targets_BT, weights_BT, segment_ids_BT)

    def pieces(self, number: int) -> list[tuple[int, int]]:
        """One for each document, or piece of one, in the row."""
        return list(self._packing.row(number))


@functools.lru_cache(maxsize=4)
def _ones(shape: tuple[int, ...]) -> np.ndarray:
    ones = np.ones(shape, np.float32)
    ones.flags.writeable = False  # All batches share it.
    return ones
