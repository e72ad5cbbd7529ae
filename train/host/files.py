"""Files that are written whole or not at all, and locks on files.

A file gets its name when all of it is on the disk, so a killed process or lost power leaves the old
one or the new one. The system lets a lock go when the process that holds it ends, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Writes or replaces a file, as `replacing` does."""
    with replacing(path) as new:
        new.write_bytes(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write a file that is to take the place of another, or to be the first.

    A crash leaves the old file or the new one, whole; an error leaves the old one alone. When it
    returns, the new one is on the disk.
    """
    new = path.with_name(path.name + ".new")
    try:
        yield new
        with new.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Waits until a folder's names are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems, such as older SMB, sync no folders: their names are left to them.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


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
