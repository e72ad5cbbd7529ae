"""`bin:PATH`: token files as llm.c and modded-nanogpt write them, used where they lie.

A file is a header of 256 int32 (magic number, version, count of tokens) and the tokens as uint16.
Their prepared folder holds links to the files in place of shards; all that preparing does is to
read each file once, for its hash and its statistics. Files with `val` as a part of their name, such
as `fineweb_val_000000.bin`, validate, unless a `validation_source` is named.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np

from train.data.config import DataConfig
from train.data.documents import DataError, Done, Progress
from train.data.preparing.shards import Manifest, Shard, SplitInfo, shard_name
from train.data.preparing.splitting import SPLITS, Split
from train.data.preparing.subword import SubwordTokenizer
from train.data.preparing.tokenizers import open_tokenizer, saved_fingerprint, tokenizer_identity
from train.data.preparing.verify import token_blocks
from train.data.sources.files import find_files, identity_of_files, open_file

_MAGIC = 20240520
_VERSION = 1
_HEADER_BYTES = 256 * 4
_DTYPE = np.dtype("<u2")
_MOST_TOKENS = 2**16
_VALIDATES = re.compile(r"(^|[_.-])val(idation)?([_.-]|$)")


def is_named(source: str) -> bool:
    """Whether a source is `bin:PATH`."""
    return source.startswith("bin:") and source != "bin:"


def identity(config: DataConfig) -> list[object]:
    """What a prepared folder of token files depends on.

    Raises:
      DataError: If the files of a split are missing, or the config asks for what needs text.
    """
    _check(config)
    files = _files(config)
    return ["bin", *map(identity_of_files, files.values()), tokenizer_identity(config.tokenizer)]


def link(config: DataConfig, folder: Path, progress: Progress | None) -> Manifest:
    """Puts links to the files, and the tokenizer, into an empty folder.

    Args:
      config: Where the files are and what made their tokens.
      folder: Where to put the links.
      progress: Called now and then with what is done so far.

    Raises:
      DataError: If a file is not what it should be, or has a token that the tokenizer has not.
    """
    tokenizer = open_tokenizer(config.tokenizer, lambda: ())
    assert isinstance(tokenizer, SubwordTokenizer)
    if tokenizer.vocab_size > _MOST_TOKENS:
        raise DataError(
            f"{config.source!r} holds tokens of 16 bits, and {tokenizer.name!r} has "
            f"{tokenizer.vocab_size} of them: name what made them."
        )
    tokenizer.save(folder)
    files_of = _files(config)
    reader = _Reader(tokenizer, sum(map(len, files_of.values())), progress)
    splits = {}
    for split, files in files_of.items():
        for index, file in enumerate(files):
            (folder / shard_name(split, index)).symlink_to(file.resolve())
        splits[split] = reader.read(split, files)
    return Manifest(
        source=config.source,
        validation_source=config.validation_source,
        tokenizer=tokenizer.name,
        tokenizer_fingerprint=tokenizer.fingerprint,
        saved_tokenizer=saved_fingerprint(tokenizer, folder),
        vocab_size=tokenizer.vocab_size,
        end_of_document=tokenizer.end_of_document,
        dtype=_DTYPE.name,
        left_out=0,
        train=splits["train"],
        validation=splits["validation"],
        header_bytes=_HEADER_BYTES,
    )


class _Reader:
    """Reads whole splits, and counts what goes by."""

    def __init__(self, tokenizer: SubwordTokenizer, files: int, progress: Progress | None) -> None:
        self._tokenizer = tokenizer
        self._bytes_of_token = tokenizer.bytes_of_tokens()
        self._progress = progress
        self._done = Done(0, 0, 0, files)

    def read(self, split: Split, files: list[Path]) -> SplitInfo:
        """What the files of a split hold."""
        before = self._done
        shards = {shard_name(split, index): self._shard(file) for index, file in enumerate(files)}
        # Of files without an end of a document all is one.
        documents = max(self._done.documents - before.documents, 1)
        info = SplitInfo(documents, self._done.text_bytes - before.text_bytes, shards)
        if info.tokens <= documents:
            raise DataError("nothing in it but ends of documents; name other files.", path=files[0])
        return info

    def _shard(self, file: Path) -> Shard:
        tokens = _count(file)
        found = hashlib.sha256()
        vocab_size = self._tokenizer.vocab_size
        for block in token_blocks(
            file,
            _DTYPE.name,
            vocab_size,
            header_bytes=_HEADER_BYTES,
            way_out=f"{self._tokenizer.name!r} did not make these tokens: name what did.",
        ):
            found.update(block.data)
            counts = np.bincount(block, minlength=vocab_size)
            documents = int(counts[self._tokenizer.end_of_document])
            self._tell(documents, int(counts @ self._bytes_of_token), 0)
        self._tell(0, 0, 1)
        return Shard(tokens, found.hexdigest())

    def _tell(self, documents: int, text_bytes: int, files: int) -> None:
        self._done = self._done.plus(documents, text_bytes, files)
        if self._progress is not None:
            self._progress(self._done)


def _check(config: DataConfig) -> None:
    if config.validation_source is not None and not is_named(config.validation_source):
        raise DataError(
            f"{config.source!r} holds tokens and {config.validation_source!r} text; give a "
            "validation_source of the form bin:PATH, or none."
        )
    if config.max_documents is not None:
        raise DataError(
            f"max_documents = {config.max_documents} cannot cut {config.source!r}, whose files are "
            "used as they are; name fewer files."
        )
    if config.tokenizer.partition(":")[0] not in ("gpt2", "tokenizer"):
        raise DataError(
            f"{config.source!r} holds tokens, and tokenizer = {config.tokenizer!r} did not make "
            "them; name what did, such as gpt2:FOLDER with GPT-2's vocab.json and merges.txt."
        )


def _files(config: DataConfig) -> dict[Split, list[Path]]:
    found = find_files(config.source.removeprefix("bin:"), ".bin")
    if config.validation_source is not None:
        held_out = find_files(config.validation_source.removeprefix("bin:"), ".bin")
        same = {file.resolve() for file in held_out}
        files = [file for file in found if file.resolve() not in same]
    else:
        held_out = [file for file in found if _VALIDATES.search(file.stem)]
        files = [file for file in found if file not in held_out]
    if not files or not held_out:
        empty = "training" if not files else "validation"
        raise DataError(
            f"{config.source!r} leaves no file for {empty} of {len(found)}; have 'val' in the "
            "names of those that validate, such as fineweb_val_000000.bin, or give a "
            "validation_source."
        )
    return dict(zip(SPLITS, (files, held_out), strict=True))


def _count(file: Path) -> int:
    """The number of tokens that a header promises, if all is as it should be."""
    with open_file(file) as stream:
        header = np.frombuffer(stream.read(_HEADER_BYTES)[: 3 * 4].ljust(12, b"\0"), "<i4")
    size = file.stat().st_size
    if size < _HEADER_BYTES:
        message = f"its {size} bytes are less than the header's {_HEADER_BYTES}; fetch it again."
        raise DataError(message, path=file, offset=size)
    magic, version, count = header.tolist()
    if magic != _MAGIC:
        raise DataError(
            f"the magic number is {magic} and not {_MAGIC}; this is no token file of llm.c's.",
            path=file,
            offset=0,
        )
    if version != _VERSION:
        raise DataError(
            f"version {version}, where version {_VERSION} is read, tokens of 16 bits; write the "
            "file again as that.",
            path=file,
            offset=4,
        )
    found = size - _HEADER_BYTES
    if count < 1 or found != count * _DTYPE.itemsize:
        raise DataError(
            f"the header says {count} tokens and {found} bytes follow it, {_DTYPE.itemsize} for "
            "each; fetch it again.",
            path=file,
            offset=8,
        )
    return count
