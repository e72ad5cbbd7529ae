"""All shards of a split as one long sequence of tokens, read in place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np


class TokenStream:
    """All shards of a split as one sequence that is read in place, never loaded."""

    def __init__(self, shards: Sequence[np.ndarray]) -> None:
        """Takes arrays, memory-mapped or not."""
        self._shards = shards
        self._ends = np.cumsum([len(shard) for shard in shards])

    @classmethod
    def open(cls, folder: Path, names: Iterable[str], dtype: str) -> TokenStream:
        """Maps the files, which must have been checked."""
        kind = np.dtype(dtype).newbyteorder("<")
        # As plain arrays: slicing the subclass np.memmap costs more than copying a short window.
        return cls([np.asarray(np.memmap(folder / name, kind, "r")) for name in names])

    def __len__(self) -> int:
        """The number of tokens."""
        return int(self._ends[-1])

    def windows(self, starts: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
        """Copies `length` tokens from each start on.

        Args:
          starts: Positions [B], each with `length` tokens after it.
          length: The same for all, at least 1.

        Returns:
          int32 [B, length].
        """
        copied = np.empty((len(starts), length), np.int32)
        firsts = np.searchsorted(self._ends, starts, side="right")
        for row, start, index in zip(copied, starts, firsts, strict=True):
            shard = self._shards[index]
            offset = start - (self._ends[index] - len(shard))
            head = shard[offset : offset + length]
            row[: len(head)] = head
            filled = len(head)
            while filled < length:  # The window goes on in the next file.
                index += 1
                more = self._shards[index][: length - filled]
                row[filled : filled + len(more)] = more
                filled += len(more)
        return copied
