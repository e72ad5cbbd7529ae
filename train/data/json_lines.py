"""JSON lines: one object a line, the text in one of its fields."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from train.data.documents import Document, Source
from train.data.errors import DataError
from train.data.sources.files import find_files, identity_of_files, open_file


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
