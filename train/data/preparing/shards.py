"""Shards, the files of tokens, and manifest.json, which says what they hold and hashes each.

Tokens are hashed while they are written, into files of bounded size.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from train.data.documents import DataError
from train.host.typed_json import from_json, to_json

SCHEMA = 2
MANIFEST_FILE = "manifest.json"
WAY_OUT = "delete the folder and prepare again."
_CHECKSUM = "checksum"
_MOST = 2**63
"""More than any file holds."""


def shard_name(split: str, index: int) -> str:
    """Such as `train-00000.bin`."""
    return f"{split}-{index:05d}.bin"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of tokens: little-endian numbers, and before them a header if there is one."""

    tokens: int
    sha256: str
    """Of the tokens."""


@dataclasses.dataclass(frozen=True)
class SplitInfo:
    """One side of the data: an end-of-document token, then each document with one after it."""

    documents: int
    text_bytes: int
    shards: dict[str, Shard]
    """By file name, in their order."""

    @property
    def tokens(self) -> int:
        """Tokens in all shards."""
        return sum(shard.tokens for shard in self.shards.values())

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of text for each token that can be predicted, which is all but the first."""
        return self.text_bytes / (self.tokens - 1)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Everything about a prepared dataset but the tokens."""

    source: str
    validation_source: str | None
    tokenizer: str
    tokenizer_fingerprint: str
    vocab_size: int
    end_of_document: int
    dtype: str
    left_out: int
    """Documents that were empty, or of `source` and in `validation_source` too."""
    train: SplitInfo
    validation: SplitInfo
    saved_tokenizer: str = ""
    """SHA-256 of the tokenizer that lies in the folder; empty if none does."""
    header_bytes: int = 0
    """Where in every shard the tokens begin: 0, but for token files that were made elsewhere."""
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuses what `prepare` would not have written, above all names outside the folder."""
        if self.schema != SCHEMA:
            raise ValueError(f"schema {self.schema}, where this version reads {SCHEMA}")
        if not 0 <= self.header_bytes < _MOST:
            raise ValueError(f"header_bytes {self.header_bytes}")
        if self.dtype not in ("uint8", "uint16", "uint32"):
            raise ValueError(f"dtype {self.dtype!r:.80}")
        most = 2 ** (8 * np.dtype(self.dtype).itemsize)
        if not 0 <= self.end_of_document < self.vocab_size <= most:
            raise ValueError(
                f"vocab_size {self.vocab_size} with the end_of_document {self.end_of_document}"
            )
        _check_split("train", self.train)
        _check_split("validation", self.validation)

    @property
    def shards(self) -> dict[str, Shard]:
        """The shards of both splits."""
        return self.train.shards | self.validation.shards

    @property
    def fingerprint(self) -> str:
        """A hash of the tokens and their meaning, the same wherever and whenever prepared."""
        meaning = [self.tokenizer, self.vocab_size, self.end_of_document, self.dtype]
        hashes = {name: shard.sha256 for name, shard in self.shards.items()}
        return hashlib.sha256(json.dumps([meaning, hashes]).encode()).hexdigest()

    def to_json(self) -> str:
        """The text of manifest.json, which ends in a hash of all that comes before."""
        fields = to_json(self)
        return json.dumps({**fields, _CHECKSUM: _checksum(fields)}, indent=1) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Reads manifest.json from a prepared folder.

        Raises:
          DataError: If it is missing, damaged or of another version.
        """
        path = folder / MANIFEST_FILE
        try:
            fields = json.loads(path.read_bytes())
            found = from_json(fields, cls, "it")
            if fields.get(_CHECKSUM) != _checksum(to_json(found)):
                raise ValueError("it has been changed")
            return found
        except FileNotFoundError:
            raise DataError(f"missing; {WAY_OUT}", path=path) from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"damaged ({error}); {WAY_OUT}", path=path) from None

    def summary(self) -> str:
        """A small table in plain text."""
        rows = {"source": self.source}
        if self.validation_source is not None:
            rows["validation source"] = self.validation_source
        rows["tokenizer"] = f"{self.tokenizer}, {self.vocab_size:,} tokens"
        for name, split in (("train", self.train), ("validation", self.validation)):
            rows[name] = (
                f"{split.tokens:,} tokens of {split.bytes_per_token:.3f} bytes, "
                f"{split.documents:,} documents, shards: {len(split.shards)}"
            )
        if self.left_out:
            rows["left out"] = f"{self.left_out:,} documents, empty or held out"
        rows["fingerprint"] = self.fingerprint[:16]
        return "\n".join(f"{name:<18} {value}" for name, value in rows.items())


def _checksum(fields: dict[str, Any]) -> str:
    """The SHA-256 of all that a manifest says: a flipped digit would still be a number."""
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


def _check_split(name: str, split: SplitInfo) -> None:
    for index, (shard, info) in enumerate(split.shards.items()):
        if shard != shard_name(name, index):
            raise ValueError(f"{shard!r:.80} in the place of {shard_name(name, index)!r}")
        if not 0 < info.tokens < _MOST:
            raise ValueError(f"{shard!r} is a shard without tokens")
        if not re.fullmatch("[0-9a-f]{64}", info.sha256):
            raise ValueError(f"{info.sha256!r:.80} is no SHA-256")
    if not 0 < split.documents < split.tokens:
        raise ValueError(f"{split.documents} documents in {split.tokens} tokens")
    if not 0 <= split.text_bytes < _MOST:
        raise ValueError(f"{split.text_bytes} bytes of text")


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
