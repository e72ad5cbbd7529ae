"""What is fuzzed: a file, what reads it, and what must hold of that whatever the bytes are."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple


class Target(NamedTuple):
    """A file, what reads it, and what it reads without a complaint."""

    file: str
    read: Callable[[Path], None]
    seeds: Callable[[], list[bytes]]
    prepare: Callable[[Path], None] = lambda folder: None
    """Puts beside it, once, what else the reader needs."""


def check(target: Target, folder: Path, content: bytes) -> bool:
    """Whether a file of these bytes is accepted.

    Raises:
      AssertionError: It is refused in a way that helps nobody, or not written back the same.
      Exception: Whatever the reader should not have raised.
    """
    path = folder / target.file
    path.write_bytes(content)
    try:
        target.read(path)
    except UnicodeError:
        raise  # A ValueError too, but one that nobody meant.
    except ValueError as error:
        message = str(error)
        assert str(folder) in message, f"names no file: {message}"
        assert message.isprintable(), f"not one printable line: {message!r}"
        assert len(message) < 1000, f"longer than anybody reads: {message}"
        return False
    return True


@contextlib.contextmanager
def scratch(target: Target) -> Iterator[Path]:
    """A folder in which the target can read."""
    with tempfile.TemporaryDirectory() as folder:
        target.prepare(Path(folder))
        yield Path(folder)
