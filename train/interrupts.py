"""Stopping between two steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Self


class Interrupted(Exception):  # noqa: N818 - not an error: the run is whole and can go on
    """A run that was asked to stop and has saved its state.

    Attributes:
      signal: The signal that asked.
      step: The step that was saved.
    """

    def __init__(self, signum: int, step: int) -> None:
        self.signal, self.step = signal.Signals(signum), step
        super().__init__(f"stopped by {self.signal.name} after step {step}; the state is saved")


class StopRequest:
    """Turns the first SIGINT or SIGTERM into a flag; a second one acts at once.

    Outside the main thread, where Python handles no signals, it does nothing.

    Attributes:
      signum: The signal received, or None.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]

    def _request(self, signum: int, _: FrameType | None) -> None:
        self.signum = signum
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
