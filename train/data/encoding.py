"""The stream from documents to shards, a few megabytes at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from train.data.config import DataConfig
from train.data.errors import DataError
from train.data.manifest import Manifest, SplitInfo
from train.data.shards import ShardWriter, smallest_dtype
from train.data.splitting import SPLITS, Routed, Split, route_documents
from train.data.tokenizers import Tokenizer, open_tokenizer

_BATCH_BYTES = 4 << 20

Progress = Callable[[int, int], None]


def encode(config: DataConfig, folder: Path, progress: Progress | None) -> Manifest:
    """Writes the shards of both splits, and the tokenizer, into an empty folder.

    Every split begins with one end-of-document token and has one after each document, so each token
    of a document, its end included, is predicted from something.

    Args:
      config: What to read.
      folder: Where to write.
      progress: Called after every batch with the documents and the bytes of text done so far.

    Raises:
      DataError: If something cannot be read, or a split has no document.
    """
    tokenizer = open_tokenizer(config.tokenizer, lambda: _training_texts(config))
    tokenizer.save(folder)
    dtype = smallest_dtype(tokenizer.vocab_size)
    left_out = documents = text_bytes = 0
    with contextlib.ExitStack() as files:
        train, validation = (
            _SplitWriter(
                split,
                tokenizer,
                files.enter_context(ShardWriter(folder, split, dtype, config.shard_tokens)),
            )
            for split in SPLITS
        )
        for batch in _batches(route_documents(config)):
            train.write(batch)
            validation.write(batch)
            left_out += sum(routed.split is None for routed in batch)
            documents += len(batch)
            text_bytes += sum(len(routed.utf8) for routed in batch)
            if progress is not None:
                progress(documents, text_bytes)
        _check_split(config, train.documents, validation.documents)
        return Manifest(
            source=config.source,
            validation_source=config.validation_source,
            tokenizer=tokenizer.name,
            tokenizer_fingerprint=tokenizer.fingerprint,
            vocab_size=tokenizer.vocab_size,
            end_of_document=tokenizer.end_of_document,
            dtype=dtype.name,
            left_out=left_out,
            train=train.finish(),
            validation=validation.finish(),
        )


class _SplitWriter:
    """Encodes and writes the documents of one split, and counts them."""

    def __init__(self, split: Split, tokenizer: Tokenizer, shards: ShardWriter) -> None:
        self._split = split
        self._tokenizer = tokenizer
        self._shards = shards
        self._end = np.array([tokenizer.end_of_document])
        self._shards.write(self._end)
        self.documents = 0
        self.text_bytes = 0

    def write(self, batch: list[Routed]) -> None:
        """Appends those documents of a batch that belong here."""
        own = [routed for routed in batch if routed.split == self._split]
        for tokens in self._tokenizer.encode_batch([routed.document.text for routed in own]):
            self._shards.write(tokens)
            self._shards.write(self._end)
        self.documents += len(own)
        self.text_bytes += sum(len(routed.utf8) for routed in own)

    def finish(self) -> SplitInfo:
        """What was written, safe on the disk."""
        return SplitInfo(self.documents, self.text_bytes, self._shards.finish())


def _training_texts(config: DataConfig) -> Iterator[str]:
    return (routed.document.text for routed in route_documents(config) if routed.split == "train")


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


def _check_split(config: DataConfig, train: int, validation: int) -> None:
    total = train + validation
    if not total:
        raise DataError(
            f"{config.source!r} has no document with any text in it; name another source."
        )
    if not train or not validation:
        empty = "training" if not train else "validation"
        if config.validation_source is None:
            reason = f"validation_fraction = {config.validation_fraction}"
            remedy = "change validation_fraction, add documents or give a validation_source"
        else:
            reason = f"validation_source = {config.validation_source!r}"
            remedy = "name two sources with different documents"
        raise DataError(
            f"none of the {total} documents is left for {empty} with {reason}; {remedy}."
        )
