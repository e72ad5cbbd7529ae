"""Files of text and of JSON lines: a file, a folder or a glob, read in the same order every time.

Plain text is read strictly as UTF-8 and cut into documents at blank lines, since a folder often
holds one book, and a single document would leave nothing to validate on. All files together are cut
into about 256 documents or more, of 1 to 16 KiB each, at the first blank line after that length.
Only a paragraph longer than eight documents is cut inside, at a space. Joined again, the documents
of a file are the file, but for a byte order mark at its start.

A line of JSON lines is one object, and the text one of its fields.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import glob
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

from train.data.documents import DataError, Document, Source, UnfinishedError


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


@dataclasses.dataclass(frozen=True)
class JsonLines:
    """`jsonl:PATH`; of a folder the `.jsonl` files. Empty lines are passed over."""

    path: str
    field: str

    def identity(self) -> list[object]:
        """The files, without reading them, and the field."""
        return ["jsonl", self.field, *identity_of_files(find_files(self.path, ".jsonl"))]

    def parts(self) -> list[Source]:
        """A source for each file."""
        files = find_files(self.path, ".jsonl")
        return [dataclasses.replace(self, path=str(file)) for file in files]

    def documents(self) -> Iterator[Document]:
        """Yields one document a line."""
        for file in find_files(self.path, ".jsonl"):
            offset = 0
            with open_file(file) as stream:
                for number, line in enumerate(stream, start=1):
                    if line.strip():
                        text = self._text(line, file, offset)
                        yield Document(f"{file}, line {number}", text)
                    offset += len(line)

    def _text(self, line: bytes, file: Path, offset: int) -> str:
        try:
            record = json.loads(line.decode("utf-8").removeprefix("\ufeff"))  # A byte order mark.
        except UnicodeDecodeError as error:
            message = f"not UTF-8 ({error.reason}); convert the file."
            raise DataError(message, path=file, offset=offset + error.start) from None
        except (ValueError, RecursionError) as error:
            message = f"not a line of JSON ({error}); mend or remove this line."
            raise DataError(message, path=file, offset=offset) from None
        if not isinstance(record, dict) or not isinstance(record.get(self.field), str):
            found = ", ".join(map(repr, record)) if isinstance(record, dict) else repr(record)
            raise DataError(
                f"no text in the field {self.field!r} of this line, only {found or 'nothing':.80}; "
                "set text_column to the field that holds the text.",
                path=file,
                offset=offset,
            )
        return record[self.field]
