"""Locks on files: the system lets them go when their process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Holds a lock, or says that there are none.

    Args:
      path: A file to lock, made if missing and left behind.
      wait: Whether to wait for another process that holds it.

    Yields:
      Whether the lock is held: False on a file system that knows no locks.

    Raises:
      BlockingIOError: If another process holds it and `wait` is False.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except BlockingIOError:
            raise
        except OSError:
            held = False
        yield held
