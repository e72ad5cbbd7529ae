"""One part of a source, such as a file, encoded into files of its own: what a crash cannot lose."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Set
from pathlib import Path

import numpy as np

from train.data.config import DataConfig
from train.data.documents import UnfinishedError
from train.data.preparing.shards import WAY_OUT, smallest_dtype
from train.data.preparing.splitting import SPLITS, Part, Routed, Split, route
from train.data.preparing.tokenizers import Tokenizer
from train.host.files import write_whole
from train.host.typed_json import from_json, to_json

_BATCH_BYTES = 4 << 20

FINISHED = ".part"
"""How the file ends that is written when a part is finished."""

Told = Callable[[int, int, int], None]
"""Called with the documents and the bytes of text that a batch had, and the parts finished."""


@dataclasses.dataclass(frozen=True)
class SplitCounts:
    """What a part has for one split."""

    documents: int
    text_bytes: int
    tokens: int
    sha256: str
    """Of the tokens."""


@dataclasses.dataclass(frozen=True)
class PartInfo:
    """What a part had; it is written last, so a part that has one is whole."""

    source: str
    """`source_hash` of what was read: a branch on the hub may have other files by now."""
    tokenizer_fingerprint: str
    documents: int
    text_bytes: int
    left_out: int
    splits: dict[str, SplitCounts]


def tokens_file(folder: Path, index: int, split: Split) -> Path:
    """Where the tokens of a part are."""
    return folder / f"{index:05d}-{split}.tokens"


def source_hash(part: Part) -> str:
    """A hash of what a part reads."""
    identity = [part.validates, *part.source.identity()]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def read_info(folder: Path, index: int, part: Part, tokenizer: Tokenizer) -> PartInfo | None:
    """What an earlier call made of a part; None if it did not come to its end, or of another.

    Raises:
      UnfinishedError: If that was with another tokenizer.
    """
    try:
        info = from_json(json.loads(_info_file(folder, index).read_bytes()), PartInfo, "it")
        tokens = {split: info.splits[split].tokens for split in SPLITS}
        sizes = {split: tokens_file(folder, index, split).stat().st_size for split in SPLITS}
    except (OSError, ValueError, RecursionError, KeyError):
        return None
    if info.tokenizer_fingerprint != tokenizer.fingerprint:
        raise UnfinishedError(
            f"begun with another tokenizer than what {tokenizer.name!r} is now; {WAY_OUT}",
            path=folder,
        )
    itemsize = smallest_dtype(tokenizer.vocab_size).itemsize
    whole = all(sizes[split] == tokens[split] * itemsize for split in SPLITS)
    return info if whole and info.source == source_hash(part) else None


def encode_part(
    config: DataConfig,
    part: Part,
    index: int,
    held_out: Set[bytes],
    tokenizer: Tokenizer,
    folder: Path,
    told: Told,
) -> PartInfo:
    """Writes the tokens of a part, each document with an end of document after it.

    Args:
      config: What to read.
      part: Which part of it.
      index: Its number, which names its files.
      held_out: Hashes of the documents of the validation source.
      tokenizer: What makes the tokens.
      folder: Where to write.
      told: Called after every batch and at the end.

    Raises:
      DataError: If something cannot be read.
    """
    left_out = documents = text_bytes = 0
    counts: dict[Split, SplitCounts] = {split: SplitCounts(0, 0, 0, "") for split in SPLITS}
    hashes = {split: hashlib.sha256() for split in SPLITS}
    dtype = smallest_dtype(tokenizer.vocab_size)
    with contextlib.ExitStack() as stack:
        files = {
            split: stack.enter_context(tokens_file(folder, index, split).open("wb"))
            for split in SPLITS
        }
        for batch in _batches(route(config, part, held_out)):
            for split, file in files.items():
                own = [routed for routed in batch if routed.split == split]
                tokens = _with_ends(tokenizer, own, dtype)
                block = tokens.tobytes()
                file.write(block)
                hashes[split].update(block)
                counts[split] = SplitCounts(
                    counts[split].documents + len(own),
                    counts[split].text_bytes + _size(own),
                    counts[split].tokens + len(tokens),
                    "",
                )
            left_out += sum(routed.split is None for routed in batch)
            documents += len(batch)
            text_bytes += _size(batch)
            told(len(batch), _size(batch), 0)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    info = PartInfo(
        source_hash(part),
        tokenizer.fingerprint,
        documents,
        text_bytes,
        left_out,
        {
            split: dataclasses.replace(counts[split], sha256=hashes[split].hexdigest())
            for split in SPLITS
        },
    )
    write_whole(_info_file(folder, index), json.dumps(to_json(info)).encode())
    told(0, 0, 1)
    return info


def _info_file(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}{FINISHED}"


def _with_ends(tokenizer: Tokenizer, own: list[Routed], dtype: np.dtype) -> np.ndarray:
    end = np.array([tokenizer.end_of_document], dtype)
    arrays = [np.empty(0, dtype)]
    for tokens in tokenizer.encode_batch([routed.document.text for routed in own]):
        arrays += [tokens.astype(dtype), end]
    return np.concatenate(arrays)


def _size(batch: list[Routed]) -> int:
    return sum(len(routed.utf8) for routed in batch)


def _batches(documents: Iterable[Routed]) -> Iterator[list[Routed]]:
    batch: list[Routed] = []
    size = 0
    for routed in documents:
        batch.append(routed)
        size += len(routed.utf8)
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
