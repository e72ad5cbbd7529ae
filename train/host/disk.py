"""When a disk is full or fails: said in one sentence, and nothing that was whole on it is lost."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from train.host.units import size

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the system's errors."""

_FAILED = (
    errno.EIO,
    errno.EROFS,  # What Linux makes of a disk with errors that is in use.
    errno.ESTALE,  # A folder of the network that went away.
)
_GOES_ON = "and the same command goes on from what was written whole."


class DiskError(RuntimeError):
    """A disk without room, or one that cannot be used any more."""


@contextmanager
def disk_explained(folder: Path | str) -> Iterator[None]:
    """Turns a full or a failing disk, met while writing, into a sentence.

    Args:
      folder: What is written to inside, or its name.

    Raises:
      DiskError: If there was no room, or the disk failed; all other errors pass.
    """
    try:
        yield
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None or isinstance(error, DiskError):
            raise
        raise DiskError(f"{folder} {sentence}, {_GOES_ON}") from error


def check_room(folder: Path, needed: int) -> None:
    """Refuses to begin what cannot be written to its end.

    Args:
      folder: What would be written to; it exists.
      needed: Bytes, at least.

    Raises:
      DiskError: If fewer are free.
    """
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free < needed:  # A file system of a program's own may not say.
        raise DiskError(
            f"{folder} has room for {size(disk.free)} and a checkpoint takes {size(needed)}: "
            f"make room, {_GOES_ON}"
        )


def _sentence(error: Exception) -> str | None:
    for number in (*FULL, *_FAILED):
        reason = os.strerror(number)
        # TensorStore passes the system's words on, in an error of another kind.
        if getattr(error, "errno", None) == number or reason in str(error):
            if number in FULL:
                return f"takes no more ({reason}): make room"
            return f"has failed ({reason}): see to the disk"
    return None
