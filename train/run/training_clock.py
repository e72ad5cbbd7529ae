"""Training time alone, without compilation, evaluation or saving; and the speed that it gives."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Self

import jax

from train.step.accelerators import peak_flops
from train.tasks.task import Task


class Spent(NamedTuple):
    """How long a run has trained, on whatever devices it had at the time."""

    seconds: float = 0.0
    device_seconds: float = 0.0
    """Each second as often as there were devices."""


NOTHING_SPENT = Spent()


class TrainingClock:
    """Runs inside its `with` block, stands still inside `paused`.

    Args:
      devices: How many train meanwhile.
      before: Where it starts, such as what the run had spent before it was interrupted.
    """

    def __init__(self, devices: int, before: Spent = NOTHING_SPENT) -> None:
        self._devices, self._before = devices, before
        self._counted = 0.0
        self._started: float | None = None

    @property
    def lap(self) -> float:
        """The seconds counted in this process."""
        running = time.perf_counter() - self._started if self._started is not None else 0.0
        return self._counted + running

    @property
    def seconds(self) -> float:
        """All seconds counted, those before this process included."""
        return self._before.seconds + self.lap

    @property
    def spent(self) -> Spent:
        """All that was counted, before this process and in it."""
        lap = self.lap
        seconds, device_seconds = self._before
        return Spent(seconds + lap, device_seconds + lap * self._devices)

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._counted, self._started = self.lap, None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stands still inside the block."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()


class Speed(NamedTuple):
    """Of the training steps alone; evaluation, checkpoints and compilation are not counted."""

    tokens_per_second: float
    """Of all devices together."""
    peak_flops: float | None
    """Of one device, bfloat16; None where it is not known."""
    mfu: float | None
    """Model FLOPs utilization: the task's FLOPs over what the devices could do at their peak."""

    def __str__(self) -> str:
        rate = f"{self.tokens_per_second:,.0f} tokens/s"
        if self.mfu is None or self.peak_flops is None:
            return f"{rate}, MFU unknown (no peak is known for this device)"
        peak = f"{self.peak_flops / 1e12:,.0f} TFLOP/s a device"
        return f"{rate}, MFU {self.mfu:.1%} of {peak}"


def speed_of(task: Task, tokens: int, spent: Spent, device_kind: str | None = None) -> Speed:
    """The speed of a run.

    Args:
      task: What it trains.
      tokens: How many it trained on.
      spent: How long that took.
      device_kind: What they are, as JAX names it; by default those in use here.

    Example:
      >>> from train.config.named import paper_consistent
      >>> from train.tasks import task_of
      >>> task = task_of(paper_consistent())
      >>> print(speed_of(task, 4_000_000, Spent(1.0, 8.0), "NVIDIA H100 80GB HBM3"))
      4,000,000 tokens/s, MFU 44.7% of 989 TFLOP/s a device
    """
    peak = peak_flops(device_kind or jax.devices()[0].device_kind)
    flops = task.flops_per_token
    mfu = None
    if peak is not None and flops is not None:
        mfu = tokens * flops / (spent.device_seconds * peak)
    return Speed(tokens / spent.seconds, peak, mfu)
