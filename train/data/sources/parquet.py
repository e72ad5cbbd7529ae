"""Parquet files, FineWeb's own format: on the disk, or on the Hugging Face hub.

Rows are read a few at a time. Files of the hub are fetched one after the other into its own cache,
as they are needed. What was prepared stays as it was even if a branch moves on: the prepared folder
belongs to the words of the source, and training never asks the network. Name a commit as the
revision to pin the content.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pyarrow
import pyarrow.parquet

from train.data.documents import DataError, Document, Source, UnfinishedError
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


_MOST_FILES_UNASKED = 64


@dataclasses.dataclass(frozen=True)
class HubFiles:
    """`hf:OWNER/NAME[@REVISION][:PATTERN]`, such as `hf:HuggingFaceFW/fineweb:sample/10BT/*`."""

    repository: str
    revision: str
    pattern: str | None
    column: str

    @classmethod
    def from_spec(cls, argument: str, column: str) -> HubFiles:
        """Reads the part of `hf:...` after the first colon; the revision is `main` unless given."""
        repository_and_revision, _, pattern = argument.partition(":")
        repository, _, revision = repository_and_revision.partition("@")
        if repository.count("/") != 1 or not all(repository.split("/")):
            raise DataError(
                f"'hf:{argument}' does not name a data set; write "
                "hf:OWNER/NAME[@REVISION][:PATTERN]."
            )
        return cls(repository, revision or "main", pattern or None, column)

    def identity(self) -> list[object]:
        """The words of the source; the hub is not asked."""
        return ["hf", self.repository, self.revision, self.pattern, self.column]

    def parts(self) -> list[Source]:
        """A source for each file, in the order of their names."""
        return [_HubFile(self, name) for name in self._file_names()]

    def documents(self) -> Iterator[Document]:
        """Yields one document a row, file after file."""
        for part in self.parts():
            yield from part.documents()

    def _file_names(self) -> list[str]:
        try:
            everything = huggingface_hub.list_repo_files(
                self.repository, revision=self.revision, repo_type="dataset"
            )
        except Exception as error:
            raise self._unreachable(error) from None
        pattern = self.pattern or "*.parquet"
        names = sorted(
            name
            for name in everything
            if name.endswith(".parquet") and fnmatch.fnmatchcase(name, pattern)
        )
        if not names:
            raise DataError(
                f"hf:{self.repository}@{self.revision} has no parquet file that matches "
                f"{pattern!r}; see 'Files' on its page on the hub."
            )
        if self.pattern is None and len(names) > _MOST_FILES_UNASKED:
            raise DataError(
                f"hf:{self.repository} has {len(names)} parquet files; say which ones, for example "
                f"hf:{self.repository}@{self.revision}:{Path(names[0]).parent}/*."
            )
        return names

    def fetch(self, name: str) -> Path:
        """Where a file is, which is fetched if it is not here."""
        try:
            return Path(
                huggingface_hub.hf_hub_download(
                    self.repository, name, revision=self.revision, repo_type="dataset"
                )
            )
        except Exception as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> UnfinishedError:
        # Of the hub's own, of the HTTP library below it or of the system: they have no common base.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return UnfinishedError(
            f"hf:{self.repository}@{self.revision} cannot be read ({reason}); check the name, the "
            "revision, the network and, for a gated data set, `hf auth login`."
        )


@dataclasses.dataclass(frozen=True)
class _HubFile:
    """One file, fetched when it is read."""

    files: HubFiles
    name: str

    def identity(self) -> list[object]:
        """The words of the source, and the name."""
        return [*self.files.identity(), self.name]

    def parts(self) -> list[Source]:
        """One."""
        return [self]

    def documents(self) -> Iterator[Document]:
        """Yields one document a row."""
        yield from read_parquet(self.files.fetch(self.name), self.files.column)
