"""When a disk takes no more: said in one sentence, and nothing that was whole on it is lost."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from train.units import size

_FULL = (errno.ENOSPC, errno.EDQUOT)
_WAY_OUT = "make room, and the same command goes on from what was written whole."


class DiskFullError(RuntimeError):
    """A disk without room, or a quota that is used up; the same command goes on when there is."""


@contextmanager
def full_disk_explained(folder: Path | str) -> Iterator[None]:
    """Turns a full disk, met while writing, into a sentence.

    Args:
      folder: What is written to inside, or its name.

    Raises:
      DiskFullError: If there was no room; all other errors pass.
    """
    try:
        yield
    except Exception as error:
        reason = _reason(error)
        if reason is None or isinstance(error, DiskFullError):
            raise
        raise DiskFullError(f"{folder} takes no more ({reason}): {_WAY_OUT}") from error


def check_room(folder: Path, needed: int) -> None:
    """Refuses to begin what cannot be written to its end.

    Args:
      folder: What would be written to; it exists.
      needed: Bytes, at least.

    Raises:
      DiskFullError: If fewer are free.
    """
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free < needed:  # A file system of a program's own may not say.
        raise DiskFullError(
            f"{folder} has room for {size(disk.free)} and a checkpoint takes {size(needed)}: "
            f"{_WAY_OUT}"
        )


def _reason(error: Exception) -> str | None:
    for number in _FULL:
        reason = os.strerror(number)
        # TensorStore passes the system's words on, in an error of another kind.
        if getattr(error, "errno", None) == number or reason in str(error):
            return reason
    return None
