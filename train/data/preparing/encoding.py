"""From documents to shards: parts of the source are encoded side by side, and written in order.

Each process encodes a part of its own into a file; the parts' tokens then go into the shards one
after the other, so the result does not depend on how many processes there were.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Set
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import NamedTuple

import numpy as np

from train.data.config import DataConfig
from train.data.documents import DataError, Done, Progress, UnfinishedError
from train.data.preparing.parts import PartInfo, Told, encode_part, read_info, tokens_file
from train.data.preparing.shards import Manifest, ShardWriter, SplitInfo, smallest_dtype
from train.data.preparing.splitting import Part, Split, held_out_hashes, parts_of, route_documents
from train.data.preparing.tokenizers import Tokenizer, load_saved, open_tokenizer, saved_fingerprint

_SECONDS_BETWEEN_LOOKS = 0.1


class Task(NamedTuple):
    """What all parts have in common."""

    config: DataConfig
    held_out: Set[bytes]
    tokenizer_name: str
    tokenizer_fingerprint: str
    folder: Path


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def encode_parts(
    task: Task, parts: Mapping[int, Part], tokenizer: Tokenizer, workers: int, told: Told
) -> dict[int, PartInfo]:
    """Encodes parts, in this process if there is but one at a time.

    Args:
      task: What they have in common.
      parts: By number.
      tokenizer: The one that `task` names, which is saved in its folder.
      workers: How many parts at a time.
      told: Called after every batch of any part and at its end.

    Raises:
      DataError: If a part cannot be read, or a process was killed.
    """
    workers = min(workers, len(parts))
    if workers <= 1:
        return {
            index: encode_part(
                task.config, part, index, task.held_out, tokenizer, task.folder, told
            )
            for index, part in parts.items()
        }
    # Not forked: this process has threads, of JAX and of the tokenizers.
    context = multiprocessing.get_context("spawn")
    batches: SimpleQueue[tuple[int, int, int]] = context.SimpleQueue()
    stop = context.RawValue(ctypes.c_bool, False)  # No Event: a killed process may keep its lock.
    threads = max(1, cores() // workers)
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, context, _start, (task, batches, stop, threads)
    )
    try:
        running = {pool.submit(_encode_task, index, part): index for index, part in parts.items()}
        waiting = set(running)
        while waiting:
            done, waiting = concurrent.futures.wait(
                waiting,
                _SECONDS_BETWEEN_LOOKS,
                concurrent.futures.FIRST_COMPLETED,
            )
            while not batches.empty():
                told(*batches.get())
            for future in done:
                future.result()
        return {index: future.result() for future, index in running.items()}
    except BrokenProcessPool:
        raise UnfinishedError(
            f"a process that read {task.config.source!r} was killed, most likely for its memory "
            "(take fewer workers), or it could not start, as from a script without `if __name__ == "
            "'__main__':`. What is finished is kept: the same call goes on from there."
        ) from None
    finally:
        stop.value = True
        pool.shutdown(cancel_futures=True)


class _StoppedError(Exception):
    """Another part has failed, or the user has had enough."""


def _start(
    task: Task, batches: SimpleQueue[tuple[int, int, int]], stop: ctypes.c_bool, threads: int
) -> None:
    """Makes a process ready: it loads the tokenizer, and ends when the one that asks does."""
    global _task, _tokenizer, _told
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["RAYON_NUM_THREADS"] = str(threads)

    def told(documents: int, text_bytes: int, finished: int) -> None:
        if stop.value:
            raise _StoppedError
        batches.put((documents, text_bytes, finished))

    _task, _told = task, told
    _tokenizer = load_saved(task.tokenizer_name, task.tokenizer_fingerprint, task.folder)


def _encode_task(index: int, part: Part) -> PartInfo:
    return encode_part(_task.config, part, index, _task.held_out, _tokenizer, _task.folder, _told)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


_task: Task
_tokenizer: Tokenizer
_told: Told


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
