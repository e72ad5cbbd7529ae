"""Further workers on this machine, each a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from rich.console import Console

from train.display import RunDisplay
from train.interrupts import Interrupted
from train.tuning.config import Tuning
from train.tuning.worker import tune


@contextmanager
def other_workers(
    tuning: Tuning, folder: Path, count: int, *, population: int = 1
) -> Iterator[None]:
    """Lets processes work on a tuning while the context is open.

    Leaving it waits for them; leaving it with an exception asks them to save and stop first.

    Args:
      tuning: What to tune.
      folder: Where it goes.
      count: How many processes besides this one.
      population: Trials that each trains at a time.

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
    workers = [
        context.Process(target=_work, args=(tuning, folder, cache, population))
        for _ in range(count)
    ]
    for worker in workers:
        worker.start()
    try:
        yield
    except BaseException:
        for worker in workers:
            worker.terminate()
        raise
    finally:
        for worker in workers:
            worker.join()


def _work(tuning: Tuning, folder: Path, cache: str | None, population: int) -> None:
    jax.config.update("jax_compilation_cache_dir", cache)
    try:
        with RunDisplay(Console(quiet=True), total_steps=0) as display:
            tune(tuning, folder, display, population=population)
    except (Interrupted, KeyboardInterrupt):  # The first process speaks for all.
        pass
