"""A prepared dataset: what training and evaluation read."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

from train.data.batches import loader
from train.data.batches.packing import open_packing
from train.data.batches.rows import Batch, PackedDocuments, Rows, Windows
from train.data.batches.stream import TokenStream
from train.data.config import DataConfig, PackingKind
from train.data.documents import DataError, Progress
from train.data.preparing.preparation import prepare, prepared_folder
from train.data.preparing.shards import WAY_OUT, Manifest
from train.data.preparing.splitting import Split
from train.data.preparing.tokenizers import Tokenizer, load_saved, saved_fingerprint
from train.data.preparing.verify import verify


def open_dataset(config: DataConfig, *, progress: Progress | None = None) -> Dataset:
    """Prepares the data if need be, checks it and maps it into memory.

    Args:
      config: Which data.
      progress: As for `prepare`.

    Raises:
      DataError: As for `prepare`.
    """
    manifest = prepare(config, progress=progress)
    return Dataset(prepared_folder(config), manifest, config.packing)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where in the prepared data some tokens that follow each other lie."""

    shard: str
    """The file of the first."""
    offset: int
    """Which of the file's tokens it is, from 0 on."""
    tokens: int


class Dataset:
    """Two splits of tokens and what they mean.

    Args:
      folder: A prepared folder that has been checked.
      manifest: What is in it.
      packing: What a row of a batch is, as in `DataConfig`.
    """

    def __init__(self, folder: Path, manifest: Manifest, packing: PackingKind = "windows") -> None:
        self.folder = folder
        self.manifest = manifest
        self.packing = packing
        self._train, self._validation = (
            TokenStream.open(folder, split.shards, manifest.dtype, manifest.header_bytes)
            for split in (manifest.train, manifest.validation)
        )
        self._rows = functools.cache(self._make_rows)

    @property
    def vocab_size(self) -> int:
        """Every token is smaller than this."""
        return self.manifest.vocab_size

    @property
    def tokenizer_name(self) -> str:
        """Such as `bytes`, `gpt2` or `bpe-4096`."""
        return self.manifest.tokenizer

    @property
    def fingerprint(self) -> str:
        """A hash of the tokens and of what a row is: equal fingerprints, equal batches."""
        if self.packing == "windows":
            return self.manifest.fingerprint
        return hashlib.sha256(f"{self.packing} {self.manifest.fingerprint}".encode()).hexdigest()

    @property
    def train_tokens(self) -> int:
        """Tokens of the training split."""
        return len(self._train)

    @property
    def validation_tokens(self) -> int:
        """Tokens of the validation split."""
        return len(self._validation)

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text for each predicted token of the validation split, exactly.

        A loss of x nats a token over the whole split is x / (ln 2 * bytes_per_token) bits a byte.
        """
        return self.manifest.validation.bytes_per_token

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """What made the tokens, and turns them back into text.

        Raises:
          DataError: If another one lies in the folder.
        """
        manifest = self.manifest
        saved = load_saved(manifest.tokenizer, manifest.tokenizer_fingerprint, self.folder)
        if manifest.saved_tokenizer not in ("", saved_fingerprint(saved, self.folder)):
            message = f"not the tokenizer that made the tokens of this folder; {WAY_OUT}"
            raise DataError(message, path=self.folder)
        return saved

    def padding(self, context: int) -> float:
        """The share of the positions of a training epoch that no document fills."""
        return self._rows("train", context).padding

    def verify(self) -> None:
        """Hashes every shard.

        Raises:
          DataError: If one has changed.
        """
        verify(self.folder, self.manifest, full=True)

    def train_batches(
        self,
        batch_size: int,
        context: int,
        *,
        seed: int,
        start_step: int = 0,
        process_index: int = 0,
        process_count: int = 1,
    ) -> Iterator[Batch]:
        """Endless shuffled batches of the training split; see `loader.train_batches`."""
        return loader.train_batches(
            self._rows("train", context),
            batch_size,
            seed=seed,
            start_step=start_step,
            process_index=process_index,
            process_count=process_count,
        )

    def train_places(
        self, batch_size: int, context: int, *, seed: int, step: int
    ) -> list[tuple[int, tuple[Place, ...]]]:
        """Where the rows of the batch come from that `train_batches` gives at a step.

        Returns:
          For each row its number in the split, and its places: of windows it is one, of packed
          documents one for each document or piece of one.
        """
        rows = self._rows("train", context)
        numbers = loader.train_rows(rows, batch_size, seed=seed, step=step).tolist()
        return [
            (number, tuple(self._place(start, length) for start, length in rows.pieces(number)))
            for number in numbers
        ]

    def _place(self, start: int, tokens: int) -> Place:
        shard, offset = self._train.locate(start)
        return Place(list(self.manifest.train.shards)[shard], offset, tokens)

    def validation_batches(
        self,
        batch_size: int,
        context: int,
        *,
        max_batches: int | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ) -> Iterator[Batch]:
        """The validation split once; see `train.data.batches.loader.validation_batches`."""
        return loader.validation_batches(
            self._rows("validation", context),
            batch_size,
            max_batches=max_batches,
            process_index=process_index,
            process_count=process_count,
        )

    def _make_rows(self, split: Split, context: int) -> Rows:
        tokens = self._train if split == "train" else self._validation
        if self.packing == "windows":
            return Windows(tokens, context)
        end_of_document = self.manifest.end_of_document
        return PackedDocuments(
            tokens, open_packing(self.folder, split, tokens, end_of_document, context)
        )
