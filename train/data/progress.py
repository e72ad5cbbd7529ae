"""How far the preparation of data has come."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


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
