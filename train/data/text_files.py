"""Plain text files, read strictly as UTF-8 and cut into documents at blank lines.

A folder often holds one book, so a file cannot be one document: nothing would be left to validate
on. All files together are cut into about 256 documents or more, of 1 to 16 KiB each, at the first
blank line after that length. Only a paragraph longer than eight documents is cut inside, at a
space. Joined again, the documents of a file are the file, but for a byte
order mark at its start.
"""

from __future__ import annotations

import codecs
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from train.data.documents import Document, Source
from train.data.errors import DataError
from train.data.sources.files import find_files, identity_of_files, open_file

_BLOCK_BYTES = 1 << 20
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")


@dataclasses.dataclass(frozen=True)
class TextFiles:
    """`text:PATH`; of a folder the `.txt` files."""

    path: str
    length: int | None = None
    """Characters after which a document may end; None for what suits all files together."""

    def identity(self) -> list[object]:
        """The files, without reading them."""
        return ["text", *identity_of_files(find_files(self.path, ".txt"))]

    def parts(self) -> list[Source]:
        """A source for each file."""
        files = find_files(self.path, ".txt")
        return [TextFiles(str(file), self._document_length(files)) for file in files]

    def documents(self) -> Iterator[Document]:
        """Yields the pieces of each file in turn."""
        files = find_files(self.path, ".txt")
        length = self._document_length(files)
        for file in files:
            for index, text in enumerate(_cut(_decoded_blocks(file), length)):
                yield Document(f"{file}, part {index}", text)

    def _document_length(self, files: list[Path]) -> int:
        if self.length is not None:
            return self.length
        total = sum(file.stat().st_size for file in files)
        return min(max(total // 256, 1 << 10), 16 << 10)


def _decoded_blocks(file: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    consumed = 0  # Bytes handed to the decoder before this block.
    with open_file(file) as stream:
        while block := stream.read(_BLOCK_BYTES):
            text = _decode(decoder, block, file, consumed)
            yield text if consumed else text.removeprefix("\ufeff")  # A byte order mark.
            consumed += len(block)
    yield _decode(decoder, b"", file, consumed)


def _decode(decoder: codecs.IncrementalDecoder, block: bytes, file: Path, consumed: int) -> str:
    pending = len(decoder.getstate()[0])  # The start of a character, left over by the last block.
    try:
        return decoder.decode(block, final=not block)
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8 ({error.reason}); convert the file, for example with "
            "`iconv -f latin1 -t utf-8`.",
            path=file,
            offset=consumed - pending + error.start,
        ) from None


def _cut(blocks: Iterator[str], length: int) -> Iterator[str]:
    rest = ""
    for block in blocks:
        rest += block
        start = 0
        while end := _end_of_document(rest, start, length):
            yield rest[start:end]
            start = end
        rest = rest[start:]
    if rest:
        yield rest


def _end_of_document(text: str, start: int, length: int) -> int | None:
    """Where the document that starts at `start` ends; None if more text must be read to know."""
    longest = start + 8 * length
    blank = _BLANK_LINE.search(text, start + length, longest)
    if blank:
        return blank.end()
    if len(text) < longest:
        return None
    return text.rfind(" ", start + length, longest) + 1 or longest
