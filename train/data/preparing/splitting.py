"""Which documents train and which validate: decided by what they say, never by where they stand.

Equal texts have equal hashes, so the copies of a document all fall on the same side and no document
is ever shared; the answer does not depend on the order, the number or the names of the files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Set
from typing import Literal, NamedTuple

from train.data.config import DataConfig
from train.data.documents import DataError, Document, Source
from train.data.sources import open_source

Split = Literal["train", "validation"]
SPLITS: tuple[Split, Split] = ("train", "validation")


class Routed(NamedTuple):
    """A document on its way: to a split, or nowhere."""

    split: Split | None
    """`None`: left out, because it is empty or belongs to the validation source."""

    document: Document
    utf8: bytes


class Part(NamedTuple):
    """What one process reads at a time, such as a file."""

    source: Source
    validates: bool
    """Whether it is a part of the validation source."""


@dataclasses.dataclass(frozen=True)
class _First:
    """The first documents of a source; where they end is known only by reading them in order."""

    source: Source
    count: int

    def identity(self) -> list[object]:
        """That of the source, and the count."""
        return [self.count, *self.source.identity()]

    def parts(self) -> list[Source]:
        """One."""
        return [self]

    def documents(self) -> Iterator[Document]:
        """Yields so many documents."""
        return itertools.islice(self.source.documents(), self.count)


def parts_of(config: DataConfig) -> list[Part]:
    """The parts of the validation source, if there is one, and of the source, in their order.

    Raises:
      DataError: If a source is unknown or its files are missing.
    """
    source = open_source(config.source, config.text_column)
    if config.max_documents is not None:
        source = _First(source, config.max_documents)
    parts = [Part(part, validates=False) for part in source.parts()]
    if config.validation_source is None:
        return parts
    held_out = open_source(config.validation_source, config.text_column)
    return [Part(part, validates=True) for part in held_out.parts()] + parts


def held_out_hashes(config: DataConfig) -> frozenset[bytes]:
    """Hashes of the documents of the validation source, which is read for that.

    Raises:
      DataError: If it cannot be read.
    """
    if config.validation_source is None:
        return frozenset()
    held_out = open_source(config.validation_source, config.text_column)
    return frozenset(_hash(_utf8(document)) for document in held_out.documents())


def route(config: DataConfig, part: Part, held_out: Set[bytes]) -> Iterator[Routed]:
    """Yields every document of a part with the split that it belongs to.

    With a `validation_source` a document of `source` that is one of its own is left out. Otherwise
    a document validates if its hash, taken as a fraction, lies below `validation_fraction`.
    Documents of white space alone are left out.

    Args:
      config: How to split.
      part: One of `parts_of`.
      held_out: What `held_out_hashes` gives.

    Raises:
      DataError: If it cannot be read, or a text is not Unicode (a lone surrogate).
    """
    threshold = int(config.validation_fraction * 2**64)
    for document in part.source.documents():
        utf8 = _utf8(document)
        if part.validates:
            split: Split | None = "validation"
        elif config.validation_source is not None:
            split = None if _hash(utf8) in held_out else "train"
        else:
            held = int.from_bytes(_hash(utf8)[:8], "big") < threshold
            split = "validation" if held else "train"
        yield Routed(split if utf8.strip() else None, document, utf8)


def route_documents(config: DataConfig) -> Iterator[Routed]:
    """Yields every document of all parts with the split that it belongs to, as `route` does."""
    held_out = held_out_hashes(config)
    for part in parts_of(config):
        yield from route(config, part, held_out)


def _hash(utf8: bytes) -> bytes:
    return hashlib.blake2b(utf8, digest_size=16).digest()


def _utf8(document: Document) -> bytes:
    try:
        return document.text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{document.name}: character {error.start} is half of a surrogate pair, which UTF-8 "
            "cannot hold; mend or remove this document."
        ) from None
