"""Signals while a run is under way: it stops between two steps, with its state saved.

SIGINT is Ctrl-C. SIGTERM is what schedulers send before they take a machine away (SLURM,
Kubernetes, spot machines), SIGUSR1 what some SLURM sites send instead, SIGHUP a closed terminal.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, ClassVar, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""What asks to stop."""


class Interrupted(BaseException):  # Not an Exception, which libraries may catch and pass over.
    """Work that was asked to stop, and that the same call goes on with.

    Attributes:
      signal: The signal that asked.
      step: The step of the run whose state was saved, or None if no run was under way.
    """

    def __init__(self, signum: int, step: int | None = None) -> None:
        self.signal, self.step = signal.Signals(signum), step
        where = "; what was finished is kept"
        if step is not None:
            where = f" after step {step}; the state is saved"
        super().__init__(f"stopped by {self.signal.name}{where}")


class StopRequest:
    """Turns signals into a flag while the context is open; a second SIGINT acts at once.

    A machine repeats itself (SLURM sends SIGTERM again when the time is over, `mpirun` passes a
    Ctrl-C on as both SIGINT and SIGTERM); a person who does means it. A signal that comes too late
    for anybody to see the flag is sent again when the context is left.

    Outside the main thread, where Python handles no signals, it does nothing.

    Attributes:
      signum: The signal received, or None.
    """

    open_count: ClassVar[int] = 0
    """Contexts that are open in this process."""
    was_heard: ClassVar[bool] = False
    """Whether one of them ever had a signal."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._asked: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            # Kept before any is replaced: `_request` needs them from the first moment on.
            self._previous = {s: signal.getsignal(s) for s in SIGNALS if not stays_ignored(s)}
            for signum in self._previous:
                signal.signal(signum, self._request)
        StopRequest.open_count += 1
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        StopRequest.open_count -= 1
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        if self._asked is not None and kind is None:
            signal.raise_signal(self._asked)

    def _request(self, signum: int, _: FrameType | None) -> None:
        StopRequest.was_heard = True
        self.signum = self._asked = signum
        if signum == signal.SIGINT:
            signal.signal(signum, self._previous[signum])


def stays_ignored(signum: int) -> bool:
    """Whether whoever started this process wants it to outlive the terminal, as `nohup` does."""
    return signum == signal.SIGHUP and signal.getsignal(signum) is signal.SIG_IGN
