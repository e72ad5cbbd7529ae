"""A clock that counts training time alone: not compilation, evaluation or saving.

How fast a run was: tokens a second, and the share of the devices' peak.

A trace of a few steps, for TensorBoard's profile plugin, xprof or Perfetto.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax

import models
from train.config.run import Experiment
from train.step.accelerators import peak_flops


class Spent(NamedTuple):
    """How long a run has trained, on whatever devices it had at the time."""

    seconds: float = 0.0
    device_seconds: float = 0.0
    """Each second as often as there were devices."""


NOTHING_SPENT = Spent()


class Stopwatch:
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
    """Model FLOPs utilization: exact causal FLOPs over what the devices could do at their peak."""

    def __str__(self) -> str:
        rate = f"{self.tokens_per_second:,.0f} tokens/s"
        if self.mfu is None or self.peak_flops is None:
            return f"{rate}, MFU unknown (no peak is known for this device)"
        peak = f"{self.peak_flops / 1e12:,.0f} TFLOP/s a device"
        return f"{rate}, MFU {self.mfu:.1%} of {peak}, {models.FLOPS_FORMULA} FLOPs a token"


def speed_of(
    config: Experiment, tokens: int, spent: Spent, device_kind: str | None = None
) -> Speed:
    """The speed of a run.

    Args:
      config: The run.
      tokens: How many it trained on.
      spent: How long that took.
      device_kind: What they are, as JAX names it; by default those in use here.

    Example:
      >>> from train.config.named import paper_consistent
      >>> print(speed_of(paper_consistent(), 4_000_000, Spent(1.0, 8.0), "NVIDIA H100 80GB HBM3"))
      4,000,000 tokens/s, MFU 44.7% of 989 TFLOP/s a device, 6 (N - untied ...) + 6 L d T FLOPs ...
    """
    peak = peak_flops(device_kind or jax.devices()[0].device_kind)
    flops = tokens * models.flops_per_token(config.model, config.context)
    mfu = None if peak is None else flops / (spent.device_seconds * peak)
    return Speed(tokens / spent.seconds, peak, mfu)


TRACE = "profile"
"""The folder of the trace within the run's."""

WARM_UP = 5
"""Steps before the trace: the first ones fill caches and are no measure."""

STEPS = 3
"""Steps in the trace; a trace of more is slow to open."""


class Profiler:
    """Traces steps of a run into a folder.

    Only here does the host wait for the device: at the end, so that the last step is in the trace.

    Args:
      folder: Where the trace goes, or None for no trace.
      first_step: The first step that this process makes.
      last_step: The last one.
    """

    def __init__(self, folder: Path | None, first_step: int, last_step: int) -> None:
        self._folder = folder
        start = max(first_step, min(first_step + WARM_UP, last_step - STEPS + 1))
        self._steps = range(start, start + STEPS)
        self._tracing = False

    def before(self, step: int) -> None:
        """A step is about to be launched."""
        if self._folder is not None and step == self._steps.start:
            jax.profiler.start_trace(self._folder)
            self._tracing = True

    def after(self, step: int, results: Any) -> None:
        """A step was launched, and these arrays will come of it."""
        if self._tracing and step == self._steps[-1]:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Writes a trace under way, also one of fewer steps."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
