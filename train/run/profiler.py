"""A trace of a few steps, for TensorBoard's profile plugin, xprof or Perfetto."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import jax

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

    @classmethod
    def off(cls, first_step: int) -> Self:
        """One that traces nothing."""
        return cls(None, first_step, first_step)

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
