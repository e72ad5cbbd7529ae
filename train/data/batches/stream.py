"""All shards of a split as one long sequence of tokens, read in place."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np


class TokenStream:
    """All shards of a split as one sequence that is read in place, never loaded."""

    def __init__(self, shards: Sequence[np.ndarray]) -> None:
        """Takes arrays, memory-mapped or not."""
        self._shards = shards
        # A list: bisecting it for one position is ten times as fast as NumPy's search.
        self._starts = [0, *itertools.accumulate(map(len, shards))]

    @classmethod
    def open(
        cls, folder: Path, names: Iterable[str], dtype: str, header_bytes: int = 0
    ) -> TokenStream:
        """Maps the files, which must have been checked."""
        kind = np.dtype(dtype).newbyteorder("<")
        # As plain arrays: slicing the subclass np.memmap costs more than copying a short window.
        return cls(
            [np.asarray(np.memmap(folder / name, kind, "r", header_bytes)) for name in names]
        )

    def __len__(self) -> int:
        """The number of tokens."""
        return self._starts[-1]

    def windows(self, starts: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
        """Copies `length` tokens from each start on.

        Args:
          starts: Positions [B], each with `length` tokens after it.
          length: The same for all, at least 1.

        Returns:
          int32 [B, length].
        """
        copied = np.empty((len(starts), length), np.int32)
        for row, start in zip(copied, starts, strict=True):
            self.copy(start, row)
        return copied

    def locate(self, position: int) -> tuple[int, int]:
        """The number of the shard that holds a token, and which of its tokens it is."""
        index = bisect.bisect_right(self._starts, position) - 1
        return index, position - self._starts[index]

    def copy(self, start: int, into: np.ndarray) -> None:
        """Fills an array with the tokens from `start` on, of which there must be enough."""
        index, offset = self.locate(start)
        head = self._shards[index][offset : offset + len(into)]
        into[: len(head)] = head
        filled = len(head)
        while filled < len(into):  # It goes on in the next file.
            index += 1
            more = self._shards[index][: len(into) - filled]
            into[filled : filled + len(more)] = more
            filled += len(more)

    def positions(self, token: int) -> np.ndarray:
        """Where a token stands: int64, ascending."""
        found = [
            np.flatnonzero(shard == token) + start
            for shard, start in zip(self._shards, self._starts, strict=False)
        ]
        return np.concatenate(found)
