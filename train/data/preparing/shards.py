"""Writing tokens into files of bounded size, hashed on the way."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from train.data.manifest import Shard, shard_name


def smallest_dtype(vocab_size: int) -> np.dtype:
    """The smallest unsigned little-endian type that holds every token: 1, 2 or 4 bytes."""
    return np.min_scalar_type(vocab_size - 1).newbyteorder("<")


class ShardWriter:
    """Appends tokens to `train-00000.bin`, `train-00001.bin`, ..., each with `shard_tokens`.

    A context manager; `finish` gives what was written.
    """

    def __init__(self, folder: Path, split: str, dtype: np.dtype, shard_tokens: int) -> None:
        self._folder = folder
        self._split = split
        self._dtype = dtype
        self._capacity = shard_tokens
        self._shards: dict[str, Shard] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, tokens: np.ndarray) -> None:
        """Appends tokens, going on to the next file where one is full."""
        while len(tokens):
            if self._file is None:
                self._open()
            assert self._file is not None
            taken = tokens[: self._capacity - self._tokens]
            block = taken.astype(self._dtype).tobytes()
            self._file.write(block)
            self._hash.update(block)
            self._tokens += len(taken)
            tokens = tokens[len(taken) :]
            if self._tokens == self._capacity:
                self._close()

    def finish(self) -> dict[str, Shard]:
        """Brings everything to the disk and describes it."""
        if self._file is not None:
            self._close()
        return self._shards

    def _open(self) -> None:
        self._name = shard_name(self._split, len(self._shards))
        self._file = (self._folder / self._name).open("wb")
        self._hash = hashlib.sha256()
        self._tokens = 0

    def _close(self) -> None:
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        self._shards[self._name] = Shard(self._tokens, self._hash.hexdigest())
