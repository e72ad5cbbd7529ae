"""From text to numbers: what every tokenizer offers, and the simplest one, bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from train.data.documents import DataError
from train.data.preparing import subword

TOKENIZER_FORMS = ("bytes", "gpt2:FOLDER", "tokenizer:PATH", "bpe:VOCAB_SIZE")


class Tokenizer(Protocol):
    """Encodes texts. `end_of_document` is put between them and never comes out of a text."""

    name: str
    vocab_size: int
    end_of_document: int
    fingerprint: str

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """One array of token numbers for each text, without `end_of_document`."""
        ...

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text again."""
        ...

    def save(self, folder: Path) -> None:
        """Leaves in `folder` what `load_saved` needs."""
        ...


class ByteTokenizer:
    """The UTF-8 bytes themselves.

    UTF-8 never contains the byte 255, so it marks the end of a document: 256 tokens in all, which
    every mesh divides.
    """

    name = "bytes"
    vocab_size = 256
    end_of_document = 255
    fingerprint = "bytes-256-end-255"

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """One array of bytes for each text."""
        return [np.frombuffer(text.encode("utf-8"), np.uint8) for text in texts]

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text again; what is not UTF-8, as a model may make it, shows as U+FFFD."""
        return bytes(np.asarray(tokens, np.uint8)).decode("utf-8", errors="replace")

    def save(self, folder: Path) -> None:
        """Leaves nothing: there is nothing to know about bytes."""


def open_tokenizer(spec: str, training_texts: Callable[[], Iterable[str]]) -> Tokenizer:
    """The tokenizer that a text such as `gpt2:tokenizers/gpt2` names.

    Args:
      spec: One of `TOKENIZER_FORMS`.
      training_texts: Gives the texts that `bpe:VOCAB_SIZE` is trained on.

    Raises:
      DataError: If it is none of `TOKENIZER_FORMS`, or its files are missing or damaged.
    """
    kind, argument = _parse(spec)
    if kind == "bytes":
        return ByteTokenizer()
    if kind == "bpe":
        return subword.train_bpe(int(argument), training_texts())
    return subword.from_files(kind, Path(argument).expanduser())


def tokenizer_identity(spec: str) -> list[str]:
    """What the tokens depend on beside the text: the kind, and the content of its files.

    Raises:
      DataError: As for `open_tokenizer`.
    """
    kind, argument = _parse(spec)
    if kind in ("bytes", "bpe"):
        return [kind, argument]
    return [kind, subword.fingerprint(subword.find_files(Path(argument).expanduser()))]


def is_made_by(spec: str, name: str, fingerprint: str) -> bool:
    """Whether a tokenizer of that name and fingerprint is the one that a text names.

    Raises:
      DataError: As for `open_tokenizer`.

    Example:
      >>> is_made_by("bytes", "bytes", "bytes-256-end-255"), is_made_by("bytes", "gpt2", "4c2b...")
      (True, False)
    """
    kind, argument = tokenizer_identity(spec)
    names = {"bytes": ByteTokenizer.name, "bpe": f"bpe-{argument}"}
    return name == names[kind] if kind in names else fingerprint == argument


def load_saved(name: str, fingerprint: str, folder: Path) -> Tokenizer:
    """The tokenizer that a prepared folder was made with."""
    if name == ByteTokenizer.name:
        return ByteTokenizer()
    return subword.load(name, folder, fingerprint)


def saved_fingerprint(tokenizer: Tokenizer, folder: Path) -> str:
    """The SHA-256 of what `tokenizer.save` has left in a folder; empty if that is nothing."""
    if tokenizer.name == ByteTokenizer.name:
        return ""
    return subword.fingerprint(subword.find_files(folder))


def _parse(spec: str) -> tuple[str, str]:
    kind, _, argument = spec.partition(":")
    if spec == "bytes" or (kind in ("gpt2", "tokenizer") and argument):
        return kind, argument
    if kind == "bpe" and argument.isdecimal():
        return kind, argument
    raise DataError(f"unknown tokenizer {spec!r}; write one of {', '.join(TOKENIZER_FORMS)}.")
