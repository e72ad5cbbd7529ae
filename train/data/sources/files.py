"""PATH in `text:PATH` and its like: a file, a folder or a glob, always in the same order."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

from train.data.errors import DataError, UnfinishedError


def find_files(path: str, suffix: str) -> list[Path]:
    """The files that a path names, sorted.

    Args:
      path: A file (of any suffix), a folder (searched to its bottom) or a glob (`**` too).
      suffix: Which files of a folder count, such as `.txt`.

    Raises:
      DataError: If there are none, one of them is empty, or a folder cannot be searched.
    """
    place = Path(path).expanduser()
    if os.path.isdir(place):
        files = sorted(_files_below(place, suffix))
        wanted = (
            f"no *{suffix} file in this folder; name a file, a folder that holds some or a glob."
        )
    else:
        # A name with brackets in it may be a file's own.
        names = [str(place)] if os.path.exists(place) else glob.glob(str(place), recursive=True)
        files = sorted(set(map(Path, names)))
        wanted = "no such file or folder, and no file matches it as a glob; check the path."
    files = [file for file in files if file.is_file()]
    if not files:
        raise DataError(wanted, path=path)
    for file in files:
        if file.stat().st_size == 0:
            raise DataError("this file is empty; remove it or fill it.", path=file)
    return files


@contextlib.contextmanager
def open_file(file: Path) -> Iterator[BinaryIO]:
    """Opens a file for reading, and names it where the system cannot read on.

    Raises:
      DataError: If it may not be read, or a part of it cannot.
    """
    try:
        with file.open("rb") as stream:
            yield stream
    except OSError as error:
        raise _unreadable(file, error) from None


def identity_of_files(files: list[Path]) -> list[object]:
    """Path, size and modification time of each file: a cheap sign that its content changed.

    Hashing the content would read everything on every start. A file that was only touched costs a
    second preparation, and nothing worse.
    """
    stats = [(file.resolve(), file.stat()) for file in files]
    return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]


def _files_below(folder: Path, suffix: str) -> Iterator[Path]:
    def stop(error: OSError) -> NoReturn:
        raise _unreadable(folder, error)

    for at, _, names in os.walk(folder, onerror=stop):
        yield from (Path(at, name) for name in names if name.endswith(suffix))


def _unreadable(path: Path, error: OSError) -> UnfinishedError:
    message = f"cannot be read ({error.strerror}); see to it."
    return UnfinishedError(message, path=error.filename or path)
