"""Parquet files, FineWeb's own format, read a few rows at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet

from train.data.documents import Document, Source
from train.data.errors import DataError
from train.data.sources.files import find_files, identity_of_files

_ROWS = 256


@dataclasses.dataclass(frozen=True)
class ParquetFiles:
    """`parquet:PATH`; of a folder the `.parquet` files."""

    path: str
    column: str

    def identity(self) -> list[object]:
        """The files, without reading them, and the column."""
        return ["parquet", self.column, *identity_of_files(find_files(self.path, ".parquet"))]

    def parts(self) -> list[Source]:
        """A source for each file."""
        files = find_files(self.path, ".parquet")
        return [dataclasses.replace(self, path=str(file)) for file in files]

    def documents(self) -> Iterator[Document]:
        """Yields one document a row."""
        for file in find_files(self.path, ".parquet"):
            yield from read_parquet(file, self.column)


def read_parquet(file: Path, column: str) -> Iterator[Document]:
    """Yields the texts of one column; a null is an empty text.

    Raises:
      DataError: If the file is damaged, or the column is missing or holds no text.
    """
    try:
        with pyarrow.parquet.ParquetFile(file) as parquet:
            _check_column(parquet.schema_arrow, column, file)
            row = 0
            for batch in parquet.iter_batches(_ROWS, columns=[column]):
                for cell in batch.column(0):
                    yield Document(f"{file}, row {row}", _text(cell, file, row))
                    row += 1
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        message = f"cannot be read as parquet ({reason}); fetch or write the file again."
        raise DataError(message, path=file) from None


def _check_column(schema: pyarrow.Schema, column: str, file: Path) -> None:
    if column not in schema.names:
        found = ", ".join(map(repr, schema.names))
        raise DataError(
            f"no column {column!r}, only {found:.200}; set text_column to the one that holds the "
            "text.",
            path=file,
        )
    kind = schema.field(column).type
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        message = f"column {column!r} holds {kind}, not text; set text_column to one that does."
        raise DataError(message, path=file)


def _text(cell: pyarrow.Scalar, file: Path, row: int) -> str:
    try:
        return cell.as_py() or ""
    except UnicodeDecodeError as error:
        message = f"the text is not UTF-8 ({error.reason}); mend or remove this row."
        raise DataError(message, path=file, offset=row, unit="row") from None
