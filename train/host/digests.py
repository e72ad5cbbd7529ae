"""Digests of a folder's files, as `sha256sum` writes them: what is read is what was written.

`sha256sum --check SHA256SUMS` inside a sealed folder checks it, too.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from train.host.files import sync_folder, write_whole

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


class DamageError(Exception):
    """A folder that is not what was sealed, or never was sealed."""


def seal(folder: Path) -> None:
    """Writes the digests of all files below a folder into one more, and all of it to the disk.

    Raises:
      DamageError: If there is something else in it than files and folders.
    """
    names = sorted(set(_files(folder)) - {SUMS})
    with ThreadPoolExecutor() as pool:
        digests = pool.map(lambda name: _digest(folder / name, to_disk=True), names)
    lines = [f"{digest}  {name}\n" for digest, name in zip(digests, names, strict=True)]
    for at, _, _ in os.walk(folder):
        sync_folder(Path(at))
    write_whole(folder / SUMS, "".join(lines).encode())


def check_seal(folder: Path) -> None:
    """Reads every file below a sealed folder. Links are not followed, wherever they lead.

    Raises:
      DamageError: Naming the first file that is missing, was added, has changed or cannot be read.
    """
    with _read_or_damaged("the folder"):
        mode = folder.lstat().st_mode
    if stat.S_ISLNK(mode):
        raise DamageError("a symbolic link, where a folder was written")
    if not stat.S_ISDIR(mode):
        raise DamageError("a file, where a folder was written")
    found = set(_files(folder))
    if SUMS not in found:
        raise DamageError(f"{SUMS} is missing")
    sealed = _sealed(folder)
    # Only names that a walk has found are opened: digests cannot name a file of somewhere else.
    if odd := sorted(sealed.keys() ^ (found - {SUMS})):
        raise DamageError(f"{odd[0]} is missing" if odd[0] in sealed else f"{odd[0]} was added")
    with ThreadPoolExecutor() as pool:
        digests = pool.map(lambda name: _read(folder, name), sealed)
        for name, digest in zip(sealed, digests, strict=True):
            if digest != sealed[name]:
                raise DamageError(f"{name} has changed since it was written")


def _sealed(folder: Path) -> dict[str, str]:
    """Digests by name, as they were written."""
    with _read_or_damaged(SUMS):
        text = (folder / SUMS).read_text(errors="replace")
    sealed = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        match = _LINE.fullmatch(line)
        if not match or not match[2].isprintable():
            raise DamageError(f"{SUMS}, line {number}: not a digest and a name")
        sealed[match[2]] = match[1]
    return sealed


def _files(folder: Path) -> Iterator[str]:
    """Names of the files below a folder, with slashes between folders."""

    def unreadable(error: OSError) -> NoReturn:
        raise DamageError(f"{Path(error.filename).name} cannot be read ({error.strerror})")

    for at, folders, files in os.walk(folder, onerror=unreadable):
        for path in (Path(at, name) for name in folders + files):
            name = path.relative_to(folder).as_posix()
            if not name.isprintable():
                raise DamageError(f"{name!r:.80} was added")
            with _read_or_damaged(name):
                mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise DamageError(f"{name} is a symbolic link")
            if stat.S_ISREG(mode):
                yield name
            elif not stat.S_ISDIR(mode):
                raise DamageError(f"{name} is neither a file nor a folder")


@contextmanager
def _read_or_damaged(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # A bad block says so only when it is read.
        raise DamageError(f"{name} cannot be read ({error.strerror})") from error


def _read(folder: Path, name: str) -> str:
    with _read_or_damaged(name):
        return _digest(folder / name)


def _digest(path: Path, *, to_disk: bool = False) -> str:
    with path.open("rb") as file:
        if to_disk:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
