"""From documents to shards: the parts of the sources side by side, then all in their order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from train.data.config import DataConfig
from train.data.errors import DataError
from train.data.manifest import Manifest, SplitInfo
from train.data.preparing.parts import PartInfo, read_info, tokens_file
from train.data.preparing.shards import ShardWriter, smallest_dtype
from train.data.preparing.splitting import Split, held_out_hashes, parts_of, route_documents
from train.data.preparing.tokenizers import Tokenizer, open_tokenizer, saved_fingerprint
from train.data.progress import Done, Progress
from train.data.workers import Task, encode_parts

_BLOCK_BYTES = 8 << 20


def encode(
    config: DataConfig, work: Path, folder: Path, workers: int, progress: Progress | None
) -> Manifest:
    """Writes the shards of both splits, and the tokenizer.

    Every split begins with one end-of-document token and has one after each document, so each token
    of a document, its end included, is predicted from something.

    Args:
      config: What to read.
      work: A folder for the parts; those that an earlier call finished there are not done again.
      folder: An empty folder for the shards.
      workers: How many parts at a time, each in a process of its own.
      progress: Called with what is done so far.

    Raises:
      DataError: If something cannot be read, a split has no document, or the parts that were found
        were made with another tokenizer.
    """
    tokenizer = open_tokenizer(config.tokenizer, lambda: _training_texts(config))
    tokenizer.save(folder)
    infos = _encode(config, tokenizer, work, workers, progress)
    train, validation = (
        sum(info.splits[split].documents for info in infos) for split in ("train", "validation")
    )
    _check_split(config, train, validation)
    return Manifest(
        source=config.source,
        validation_source=config.validation_source,
        tokenizer=tokenizer.name,
        tokenizer_fingerprint=tokenizer.fingerprint,
        saved_tokenizer=saved_fingerprint(tokenizer, folder),
        vocab_size=tokenizer.vocab_size,
        end_of_document=tokenizer.end_of_document,
        dtype=smallest_dtype(tokenizer.vocab_size).name,
        left_out=sum(info.left_out for info in infos),
        train=_join("train", config, tokenizer, infos, work, folder),
        validation=_join("validation", config, tokenizer, infos, work, folder),
    )


def _encode(
    config: DataConfig,
    tokenizer: Tokenizer,
    work: Path,
    workers: int,
    progress: Progress | None,
) -> list[PartInfo]:
    parts = parts_of(config)
    tokenizer.save(work)
    found = [read_info(work, index, part, tokenizer) for index, part in enumerate(parts)]
    before = [info for info in found if info]
    documents = sum(info.documents for info in before)
    text_bytes = sum(info.text_bytes for info in before)
    done = Done(documents, text_bytes, len(before), len(parts))

    def told(*more: int) -> None:
        nonlocal done
        done = done.plus(*more)
        if progress is not None:
            progress(done)

    held_out = held_out_hashes(config)
    task = Task(config, held_out, tokenizer.name, tokenizer.fingerprint, work)
    missing = {index: parts[index] for index, info in enumerate(found) if info is None}
    made = encode_parts(task, missing, tokenizer, workers, told)
    return [info or made[index] for index, info in enumerate(found)]


def _join(
    split: Split,
    config: DataConfig,
    tokenizer: Tokenizer,
    infos: list[PartInfo],
    work: Path,
    folder: Path,
) -> SplitInfo:
    dtype = smallest_dtype(tokenizer.vocab_size)
    with ShardWriter(folder, split, dtype, config.shard_tokens) as shards:
        shards.write(np.array([tokenizer.end_of_document]))
        for index, info in enumerate(infos):
            path = tokens_file(work, index, split)
            found = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    found.update(block)
                    shards.write(np.frombuffer(block, dtype))
            if found.hexdigest() != info.splits[split].sha256:
                raise DataError("changed since it was written; start again.", path=path)
        counts = [info.splits[split] for info in infos]
        documents = sum(count.documents for count in counts)
        return SplitInfo(documents, sum(count.text_bytes for count in counts), shards.finish())


def _training_texts(config: DataConfig) -> Iterator[str]:
    return (routed.document.text for routed in route_documents(config) if routed.split == "train")


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
