"""The parts of a source encoded side by side, each process with a part of its own."""

from __future__ import annotations

import concurrent.futures
import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping, Set
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import NamedTuple

from train.data.config import DataConfig
from train.data.errors import UnfinishedError
from train.data.preparing.parts import PartInfo, Told, encode_part
from train.data.preparing.splitting import Part
from train.data.preparing.tokenizers import Tokenizer, load_saved

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
