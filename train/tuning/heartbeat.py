"""How workers on any machine know that one of them is gone: a file that each keeps touching.

Optuna's journal has no heartbeat of its own. Times are the file system's, so that the machines'
clocks need not agree.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Self

# Twice as long as network file systems may show an old time of a file (60 s).
STALE_AFTER = 120.0


class OverdueError(RuntimeError):
    """This worker was silent for so long that others may have taken its trials over."""


class Heartbeat:
    """A sign of life while the context is open.

    Args:
      folder: Where the workers' files are.
      stale_after: Seconds without a beat after which a worker counts as gone.

    Attributes:
      name: This worker's, unlike any other's.
    """

    def __init__(self, folder: Path, stale_after: float = STALE_AFTER) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._folder, self._stale_after = folder, stale_after
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, daemon=True)

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._last = time.time()
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        (self._folder / self.name).unlink(missing_ok=True)

    def is_alive(self, worker: str) -> bool:
        """Whether a worker has given a sign of life of late."""
        self._beat()
        try:
            theirs = (self._folder / Path(worker).name).stat().st_mtime
        except FileNotFoundError:
            return False
        return (self._folder / self.name).stat().st_mtime - theirs < self._stale_after

    def check(self) -> None:
        """To be called between steps.

        Raises:
          OverdueError: If the process was suspended for longer than a worker may be silent.
        """
        silent = time.time() - self._last
        if silent > self._stale_after:
            raise OverdueError(f"silent for {silent:.0f} s: others may have taken over")

    def _beat(self) -> None:
        # Who was taken for dead must not come back to life: an overdue worker never beats again.
        self.check()
        (self._folder / self.name).touch()
        self._last = time.time()

    def _keep_beating(self) -> None:
        while not self._stopped.wait(self._stale_after / 12):
            try:
                self._beat()
            except OverdueError:
                return
