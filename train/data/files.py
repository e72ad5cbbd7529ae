"""PATH in `text:PATH` and its like: a file, a folder or a glob, always in the same order."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import BinaryIO

from train.data.errors import DataError


def find_files(path: str, suffix: str) -> list[Path]:
    """The files that a path names, sorted.

    Args:
      path: A file (of any suffix), a folder (searched to its bottom) or a glob (`**` too).
      suffix: Which files of a folder count, such as `.txt`.

    Raises:
      DataError: If there are none, or one of them is empty.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        files = sorted(place.rglob(f"*{suffix}"))
        wanted = (
            f"no *{suffix} file in this folder; name a file, a folder that holds some or a glob."
        )
    else:
        # A name with brackets in it may be a file's own.
        names = [str(place)] if place.exists() else glob.glob(str(place), recursive=True)
        files = sorted(map(Path, names))
        wanted = "no such file or folder, and no file matches it as a glob; check the path."
    files = [file for file in files if file.is_file()]
    if not files:
        raise DataError(wanted, path=path)
    for file in files:
        if file.stat().st_size == 0:
            raise DataError("this file is empty; remove it or fill it.", path=file)
    return files


def open_file(file: Path) -> BinaryIO:
    """Opens a file of a source for reading.

    Raises:
      DataError: If that is not allowed.
    """
    try:
        return file.open("rb")
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror}); see to it.", path=file) from None


def identity_of_files(files: list[Path]) -> list[object]:
    """Path, size and modification time of each file: a cheap sign that its content changed.

    Hashing the content would read everything on every start. A file that was only touched costs a
    second preparation, and nothing worse.
    """
    stats = [(file.resolve(), file.stat()) for file in files]
    return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]
