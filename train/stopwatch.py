"""A clock that counts training time alone: not compilation, evaluation or saving."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self


class Stopwatch:
    """Runs inside its `with` block, stands still inside `paused`.

    Args:
      seconds: Where it starts, such as the seconds of the run before it was interrupted.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._before = self._base = seconds
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """All seconds counted, those before this process included."""
        running = time.perf_counter() - self._started if self._started is not None else 0.0
        return self._before + running

    @property
    def lap(self) -> float:
        """The seconds counted in this process."""
        return self.seconds - self._base

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._before, self._started = self.seconds, None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stands still inside the block."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()
