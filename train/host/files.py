"""Files that are there whole or not at all, whenever the process dies or the power goes."""

from __future__ import annotations

import contextlib
import errno
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
