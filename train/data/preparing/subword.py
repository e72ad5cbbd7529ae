"""Byte-pair encodings through Hugging Face `tokenizers`: GPT-2's, any other, or trained here.

A long text is encoded in pieces, cut where the tokens stay those of the whole. So one book keeps
all cores busy, and a document of 100 MB needs little memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from train.data.documents import DataError
from train.data.sources.files import open_file
from train.host.files import write_whole

_PIECE = 32 << 10  # Characters.
_WORD_END = re.compile(r"\S(?=\s)")


def cut(text: str, forged: str | None = None) -> Iterator[str]:
    """Cuts a long text before a space that follows a word, where a byte-level token begins anyway.

    Args:
      text: The tokens of its pieces are those that it has as a whole.
      forged: What the tokenizer would take for an end of a document, wherever it is written: that
        is cut after its first letter.
    """
    if forged and forged in text:
        first, *others = text.split(forged)
        for other in others:
            yield from cut(first + forged[0])
            first = forged[1:] + other
        text = first
    start = 0
    while len(text) - start > _PIECE:
        furthest = start + 2 * _PIECE
        word_end = _WORD_END.search(text, start + _PIECE - 1, furthest)
        end = word_end.end() if word_end else min(furthest, len(text))
        yield text[start:end]
        start = end
    yield text[start:]


_SAVED_AS = "tokenizer.json"
_END_OF_TEXT = "<|endoftext|>"
_END_NAMES = (_END_OF_TEXT, "<|end_of_text|>", "<|endofdocument|>", "</s>", "<eos>", "[EOS]")
_SMALLEST_VOCABULARY = 257  # Every byte, and the end of a document.
_UNKNOWN = "\ue000"  # For private use: no vocabulary has it, but by its bytes.
_TRAINING_CHARACTERS = 256 << 20  # Merges hardly change with more text than that.
_PIECES_AT_ONCE = 256  # An encoding takes some hundred bytes a token until it is an array.


class SubwordTokenizer:
    """Whatever a tokenizer.json describes.

    Args:
      name: What records call it.
      encoding: The tokenizer. Its padding, truncation and special tokens are switched off, so that
        a document in which `<|endoftext|>` is written does not end there.
      fingerprint: A hash of the files that it was read from.
      path: One of them, for messages.

    Raises:
      DataError: If it has no token for the end of a document, or one that stands for more.
    """

    def __init__(
        self,
        name: str,
        encoding: tokenizers.Tokenizer,
        fingerprint: str,
        path: Path | None = None,
    ) -> None:
        ends = ((end, encoding.token_to_id(end)) for end in _END_NAMES)
        found = next(((end, token) for end, token in ends if token is not None), None)
        if found is None:
            raise DataError(
                f"the tokenizer {name!r} has no token for the end of a document; add one of "
                f"{', '.join(_END_NAMES)} to its added_tokens.",
                path=path,
            )
        encoding.no_padding()
        encoding.no_truncation()
        encoding.encode_special_tokens = True
        self.name = name
        end, self.end_of_document = found
        self.fingerprint = fingerprint
        self._path = path
        # The numbers may have holes, so it is not the count of entries that bounds them.
        numbers = list(encoding.get_vocab(with_added_tokens=True).values())
        self.vocab_size: int = max(numbers) + 1
        self._encoding = encoding
        written, unknown = self._encode([end, _UNKNOWN])
        if numbers.count(self.end_of_document) > 1 or self.end_of_document in unknown:
            raise DataError(
                f"the tokenizer {name!r} has {end!r} for other text as well; name one with a token "
                "for the end of a document alone.",
                path=path,
            )
        # Where its end is no special token, or is a word like others, a text could hold it.
        self._forged = end if self.end_of_document in written else None

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """One array of token numbers for each text, on all cores.

        Raises:
          DataError: If the tokenizer lacks a token for what it does not know.
        """
        pieces = [list(cut(text, self._forged)) for text in texts]
        numbers = self._encode(list(itertools.chain.from_iterable(pieces)))
        arrays = (np.concatenate(list(itertools.islice(numbers, len(own)))) for own in pieces)
        # What is normalized may still be an end that was not written as one: it is left out.
        return [tokens[tokens != self.end_of_document] for tokens in arrays]

    def _encode(self, pieces: list[str]) -> Iterator[np.ndarray]:
        for start in range(0, len(pieces), _PIECES_AT_ONCE):
            some = pieces[start : start + _PIECES_AT_ONCE]
            with _errors_told(f"the tokenizer {self.name!r} cannot encode a text", self._path):
                encodings = self._encoding.encode_batch_fast(some, add_special_tokens=False)
            for encoding in encodings:
                yield np.asarray(encoding.ids, np.uint32)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text again, with the ends of documents."""
        numbers = np.asarray(tokens).tolist()
        with _errors_told(f"the tokenizer {self.name!r} cannot decode its tokens", self._path):
            return self._encoding.decode(numbers, skip_special_tokens=False)

    def bytes_of_tokens(self) -> np.ndarray:
        """How many bytes of text each token stands for: int64 [vocab_size].

        Raises:
          DataError: If the tokens are not made of bytes, as GPT-2's are.
        """
        if not isinstance(self._encoding.decoder, decoders.ByteLevel):
            raise DataError(
                f"the tokens of {self.name!r} are not made of bytes, so the length of their text "
                "is not known; name a byte-level tokenizer, such as GPT-2's."
            )
        sizes = np.zeros(self.vocab_size, np.int64)
        for token, number in self._encoding.get_vocab(with_added_tokens=False).items():
            sizes[number] = len(token)  # Each byte is written as one character.
        for number, added in self._encoding.get_added_tokens_decoder().items():
            sizes[number] = len(added.content.encode())
        sizes[self.end_of_document] = 0
        return sizes

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json."""
        # Not by the library, whose errors about a full disk are no OSError.
        text = self._encoding.to_str(pretty=True)
        write_whole(folder / _SAVED_AS, text.encode())


def find_files(path: Path) -> list[Path]:
    """The files of a tokenizer: one tokenizer.json, or GPT-2's vocab.json and merges.txt.

    Raises:
      DataError: If they are not there.
    """
    if path.is_file():
        return [path]
    candidates = [[path / _SAVED_AS], [path / "vocab.json", path / "merges.txt"]]
    for files in candidates:
        if all(file.is_file() for file in files):
            return files
    raise DataError(
        "no tokenizer here; name a tokenizer.json, or a folder with one or with vocab.json and "
        "merges.txt.",
        path=path,
    )


def fingerprint(files: Sequence[Path]) -> str:
    """The SHA-256 of the files of a tokenizer."""
    found = hashlib.sha256()
    for file in files:
        with open_file(file) as stream:
            found.update(stream.read())
    return found.hexdigest()


def from_files(kind: str, path: Path) -> SubwordTokenizer:
    """Reads a tokenizer from its own files.

    Args:
      kind: `gpt2`, which becomes its name, or `tokenizer`, which is called after its folder.
      path: A tokenizer.json or a folder, as for `find_files`.

    Raises:
      DataError: If the files are missing or damaged.
    """
    files = find_files(path)
    name = kind if kind == "gpt2" else files[0].resolve().parent.name
    return SubwordTokenizer(name, _read(files), fingerprint(files), files[0])


def load(name: str, folder: Path, saved_fingerprint: str) -> SubwordTokenizer:
    """Reads what `SubwordTokenizer.save` wrote."""
    files = find_files(folder)
    return SubwordTokenizer(name, _read(files), saved_fingerprint, files[0])


def train_bpe(vocab_size: int, texts: Iterable[str]) -> SubwordTokenizer:
    """Trains GPT-2's kind of byte-pair encoding; it may end smaller if the texts are few.

    Raises:
      DataError: If the vocabulary cannot hold the 256 bytes and the end of a document.
    """
    if vocab_size < _SMALLEST_VOCABULARY:
        raise DataError(
            f"'bpe:{vocab_size}' is too small a vocabulary; it needs {_SMALLEST_VOCABULARY} at "
            "least: the bytes and the end of a document."
        )
    encoding = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[_END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    encoding.train_from_iterator(_first(texts, _TRAINING_CHARACTERS), trainer)
    content = encoding.to_str().encode("utf-8")
    return SubwordTokenizer(f"bpe-{vocab_size}", encoding, hashlib.sha256(content).hexdigest())


def _read(files: Sequence[Path]) -> tokenizers.Tokenizer:
    with _errors_told("cannot be read as a tokenizer.json", files[0]):
        if len(files) == 1:
            return tokenizers.Tokenizer.from_file(str(files[0]))
        vocabulary, merges = map(str, files)
        return _byte_level(models.BPE.from_file(vocabulary, merges))


@contextlib.contextmanager
def _errors_told(what: str, path: Path | None) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        # The library raises bare Exceptions, and its panics are not even those.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise DataError(
            f"{what} ({str(error)!r:.200}); fetch it again, or convert it if it is a SentencePiece "
            "model.",
            path=path,
        ) from None


def _byte_level(model: models.BPE) -> tokenizers.Tokenizer:
    encoding = tokenizers.Tokenizer(model)
    encoding.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    encoding.decoder = decoders.ByteLevel()
    return encoding


def _first(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        yield from cut(text)
        characters -= len(text)
        if characters <= 0:
            return
