"""A prepared dataset: what training and evaluation read."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from train.data import loader
from train.data.config import DataConfig
from train.data.encoding import Progress
from train.data.loader import Batch
from train.data.manifest import Manifest
from train.data.preparation import prepare, prepared_folder
from train.data.stream import TokenStream
from train.data.tokenizers import Tokenizer, load_saved
from train.data.verify import verify


def open_dataset(config: DataConfig, *, progress: Progress | None = None) -> Dataset:
    """Prepares the data if need be, checks it and maps it into memory.

    Args:
      config: Which data.
      progress: As for `prepare`.

    Raises:
      DataError: As for `prepare`.
    """
    manifest = prepare(config, progress=progress)
    return Dataset(prepared_folder(config), manifest)


class Dataset:
    """Two splits of tokens and what they mean.

    Args:
      folder: A prepared folder that has been checked.
      manifest: What is in it.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._train = TokenStream.open(folder, manifest.train.shards, manifest.dtype)
        self._validation = TokenStream.open(folder, manifest.validation.shards, manifest.dtype)

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
        """A hash of the tokens: equal fingerprints, equal batches."""
        return self.manifest.fingerprint

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
        """What made the tokens, and turns them back into text."""
        manifest = self.manifest
        return load_saved(manifest.tokenizer, manifest.tokenizer_fingerprint, self.folder)

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
        """Endless shuffled batches of the training split; see `train.data.loader.train_batches`."""
        return loader.train_batches(
            self._train,
            batch_size,
            context,
            seed=seed,
            start_step=start_step,
            process_index=process_index,
            process_count=process_count,
        )

    def validation_batches(
        self,
        batch_size: int,
        context: int,
        *,
        max_batches: int | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ) -> Iterator[Batch]:
        """The validation split once; see `train.data.loader.validation_batches`."""
        return loader.validation_batches(
            self._validation,
            batch_size,
            context,
            max_batches=max_batches,
            process_index=process_index,
            process_count=process_count,
        )
