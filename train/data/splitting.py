"""Which documents train and which validate: decided by what they say, never by where they stand.

Equal texts have equal hashes, so the copies of a document all fall on the same side and no document
is ever shared; the answer does not depend on the order, the number or the names of the files.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from typing import Literal, NamedTuple

from train.data.config import DataConfig
from train.data.documents import Document
from train.data.errors import DataError
from train.data.sources import open_source

Split = Literal["train", "validation"]
SPLITS: tuple[Split, Split] = ("train", "validation")


class Routed(NamedTuple):
    """A document on its way: to a split, or nowhere."""

    split: Split | None
    """`None`: left out, because it is empty or belongs to the validation source."""

    document: Document
    utf8: bytes


def route_documents(config: DataConfig) -> Iterator[Routed]:
    """Yields every document of the sources with the split that it belongs to.

    With a `validation_source` its documents come first, and a document of `source` that is one of
    them is left out. Otherwise a document validates if its hash, taken as a fraction, lies below
    `validation_fraction`. Documents of white space alone are left out.

    Raises:
      DataError: If a source cannot be read, or a text is not Unicode (a lone surrogate).
    """
    documents = open_source(config.source, config.text_column).documents()
    wanted = itertools.islice(documents, config.max_documents)
    if config.validation_source is None:
        threshold = int(config.validation_fraction * 2**64)
        for document in wanted:
            utf8 = _utf8(document)
            held_out = int.from_bytes(_hash(utf8)[:8], "big") < threshold
            yield _routed("validation" if held_out else "train", document, utf8)
        return
    held_out_hashes = set()
    for document in open_source(config.validation_source, config.text_column).documents():
        utf8 = _utf8(document)
        held_out_hashes.add(_hash(utf8))
        yield _routed("validation", document, utf8)
    for document in wanted:
        utf8 = _utf8(document)
        yield _routed(None if _hash(utf8) in held_out_hashes else "train", document, utf8)


def _routed(split: Split | None, document: Document, utf8: bytes) -> Routed:
    return Routed(split if utf8.strip() else None, document, utf8)


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
