"""A clock that counts training time alone: not compilation, evaluation or saving."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Self


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
