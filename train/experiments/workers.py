"""Further workers on this machine, each a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess

import jax

from train.host.allocator import share_heap
from train.host.signals import Stopping, StopRequest

Work = Callable[..., None]
"""What workers share; may be told an `Observer`, and keeps silent by default."""


@contextmanager
def other_workers(work: Work, count: int) -> Iterator[None]:
    """Lets processes do the same work while the context is open; they share it out by themselves.

    Leaving it waits for them; leaving it with an exception asks them to save and stop first, and so
    does the end of this process, should it be killed.

    Args:
      work: What to do; a `functools.partial` of a module's function, since a process of its own
        imports it.
      count: How many processes besides this one.

    Raises:
      ValueError: If the count is negative, or if there would be several on one accelerator, whose
        memory one takes whole.
    """
    if count < 0:
        raise ValueError(f"workers={count + 1} is not allowed: it must be at least 1.")
    if count and jax.default_backend() != "cpu":
        raise ValueError(
            f"workers={count + 1} are for CPUs: on accelerators, call the same command once for "
            "each device, which CUDA_VISIBLE_DEVICES names."
        )
    # A fork would share the threads of a JAX that has begun to work.
    context = multiprocessing.get_context("spawn")
    cache = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    workers: list[SpawnProcess] = []
    try:
        with _signals_waiting():
            for _ in range(count):
                worker = context.Process(target=_work, args=(work, cache))
                worker.start()
                workers.append(worker)
        yield
    except BaseException:
        for worker in workers:
            worker.terminate()
        raise
    finally:
        for worker in workers:
            worker.join()


@contextmanager
def _signals_waiting() -> Iterator[None]:
    """Signals come when it is left: a worker between its start and the list would work on alone.

    A Ctrl-C reaches the workers that are started inside once they can stop, not amid their imports.
    """
    resource_tracker.ensure_running()  # Otherwise the first start does, and lets Ctrl-C through.
    with StopRequest():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(work: Work, cache: str | None) -> None:
    share_heap()
    jax.config.update("jax_compilation_cache_dir", cache)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    with Stopping(quiet=True):  # The first process speaks for all.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        work()


def _stop_with_parent() -> None:
    """Saves and stops when the first process is gone: nobody expects the others to work on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
