"""What asks a process to stop, and how it stops: between two steps of a run, or at once.

SIGINT is Ctrl-C. SIGTERM is what schedulers send before they take a machine away (SLURM,
Kubernetes, spot machines), SIGUSR1 what some SLURM sites send instead, SIGHUP a closed terminal.

While a run is under way (`StopRequest`) it stops between two steps, with its state saved. At all
other times (`Stopping`, from the first import on) the process says so and ends. Python runs a
signal's handler between two of its own instructions, so a thread that compiles, or waits for
another machine, would stop only when it is done. A second thread hears of every signal at once, and
ends the process where the first does not begin to. That loses no more than a kill would, which is
nothing that was finished.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
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


PATIENCE = 3.0
"""Seconds that a process has to begin to stop, and to end after a second SIGINT."""


class Stopping:
    """A context that signals end: it says so, and exits with the status that a launcher expects.

    Where a `StopRequest` is open, the run that opened it decides when; a second SIGINT is obeyed
    within `PATIENCE` whatever is under way.

    Attributes:
      status: Exit status after any signal but SIGINT, after which it is 130. Before a command has
        set it, 143: nobody may take a command that has not begun for one that has ended.
      quiet: Says nothing, as where another process speaks for all.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.status, self.quiet = 128 + signal.SIGTERM, quiet
        self._interrupts = 0
        self._was_heard = self._is_over = False
        self._left_with: int | None = None

    def __enter__(self) -> Self:
        atexit.register(self._leave)  # The first that is registered is the last to be called.
        self._read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for signum in SIGNALS:
            if not stays_ignored(signum):
                signal.signal(signum, self._stop)
        self._unraisable, sys.unraisablehook = sys.unraisablehook, self._lost
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        self._is_over = True
        for signum in SIGNALS:  # What is left to do is short, and the status stands.
            signal.signal(signum, signal.SIG_DFL if signum == signal.SIGINT else signal.SIG_IGN)
        if isinstance(error, Interrupted):
            self._say(error)
            self._left_with = self._status_after(error)
            sys.exit(self._left_with)

    def _leave(self) -> None:
        """Spares libraries that a signal has surprised their end: JAX's threads can crash in it."""
        if self._left_with is not None:
            os._exit(self._left_with)

    def _stop(self, signum: int, _: FrameType | None) -> None:
        self._was_heard = True
        raise Interrupted(signum)

    def _lost(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Sends a signal again whose exception came up where Python drops them all.

        JAX has such code in every garbage collection.
        """
        if isinstance(unraisable.exc_value, Interrupted):
            signum = unraisable.exc_value.signal
            self._interrupts -= signum == signal.SIGINT
            # To the main thread, which may be waiting for something that only a signal ends.
            main = threading.main_thread().ident
            threading.Timer(0.1, signal.pthread_kill, [main, signum]).start()
        else:
            self._unraisable(unraisable)

    def _watch(self) -> None:
        while True:
            signum = os.read(self._read, 1)[0]
            self._interrupts += signum == signal.SIGINT
            # Each signal has its own time: a second SIGINT must not wait for the first one's end.
            look = threading.Timer(PATIENCE, self._look, [signum, self._interrupts > 1])
            look.daemon = True
            look.start()

    def _look(self, signum: int, is_second_interrupt: bool) -> None:
        ends = self._was_heard or StopRequest.was_heard or StopRequest.open_count > 0
        if is_second_interrupt or not (ends or self._is_over):
            self._end(Interrupted(signum))

    def _end(self, stop: Interrupted) -> None:
        if not self._is_over:  # Else it is said, and the end itself hangs: other hosts, threads.
            self._say(stop)
        os._exit(self._status_after(stop))

    def _say(self, stop: Interrupted) -> None:
        if self.quiet:
            return
        with contextlib.suppress(OSError):  # The terminal may be gone.
            # A progress bar that was left alone has hidden the cursor.
            print("\x1b[?25h" if sys.stdout and sys.stdout.isatty() else "", end="")
            print(f"{stop}. The same command goes on from there.", flush=True)

    def _status_after(self, stop: Interrupted) -> int:
        return 130 if stop.signal is signal.SIGINT else self.status


stopping = Stopping()
"""What signals do to `python -m train`."""
