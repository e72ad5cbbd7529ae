"""What every source gives: documents, one after the other, the same every time."""

from __future__ import annotations

from collections.abc import Iterator
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
