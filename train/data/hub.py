"""Parquet data sets on the Hugging Face hub, FineWeb first of all.

Files are fetched one after the other into the hub's own cache, as they are needed. What was
prepared stays as it was even if a branch moves on: the prepared folder belongs to the words of the
source, and training never asks the network. Name a commit as the revision to pin the content.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub

from train.data.documents import Document, Source
from train.data.errors import DataError, UnfinishedError
from train.data.sources.parquet import read_parquet

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
