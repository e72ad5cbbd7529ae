"""What every source gives, the error of reading one, and how far preparing has come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol


class Document(NamedTuple):
    """One text that belongs together; it is never split between training and validation."""

    name: str
    """Where it comes from, for messages: `books.parquet, row 17`."""

    text: str


class Source(Protocol):
    """Documents in a fixed order, read as a stream so that they need not fit into memory."""

    def identity(self) -> list[object]:
        """What the documents depend on, as JSON: the same identity means the same documents."""
        ...

    def parts(self) -> list[Source]:
        """Sources, such as one a file, which one after the other have the same documents."""
        ...

    def documents(self) -> Iterator[Document]:
        """Yields the documents from the first one on, each time it is called.

        Raises:
          DataError: If a file cannot be read as what it should be.
        """
        ...


class DataError(ValueError):
    """Something is wrong with the data, and the user can mend it.

    Args:
      message: One sentence: what is wrong and what to do about it.
      path: The file or folder it is about, put in front of the message.
      offset: Where in the file, counted from 0 in `unit`s, if that is known.
      unit: What `offset` counts: `"byte"`, `"row"` or `"token"`.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | Path | None = None,
        offset: int | None = None,
        unit: str = "byte",
    ) -> None:
        place = "" if path is None else f"{path}: "
        if offset is not None:
            place = f"{path}, {unit} {offset}: "
        super().__init__(place + message)
        self.path = None if path is None else Path(path)
        self.offset = offset
        self.unit = unit


class UnfinishedError(DataError):
    """Preparing cannot go on now, but may later: what is finished of it is kept."""


class Done(NamedTuple):
    """What is read so far, by earlier calls included."""

    documents: int
    text_bytes: int
    """Their size in UTF-8."""
    parts: int
    """Parts of the source that are finished, such as files."""
    of_parts: int
    """All of them."""

    def plus(self, documents: int, text_bytes: int, parts: int) -> Done:
        """With that much more done."""
        return Done(
            self.documents + documents, self.text_bytes + text_bytes, self.parts + parts,
            self.of_parts,
        )  # fmt: skip


Progress = Callable[[Done], None]
"""Called after every batch of documents and every part."""
