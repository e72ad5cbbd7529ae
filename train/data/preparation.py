"""Tokenizes once: documents in, memory-mapped shards and a manifest out, whole or not at all.

Everything is written into a temporary folder beside the final one and takes its name in one step at
the very end, so a folder with a final name is complete, whatever happened on the way. A lock keeps
two processes from doing the same work twice; where a file system has no locks both do it, and the
second finds the name taken and uses what the first made.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from train.data.config import DataConfig
from train.data.encoding import Progress, encode
from train.data.errors import DataError
from train.data.manifest import MANIFEST_FILE, SCHEMA, Manifest
from train.data.sources import open_source
from train.data.tokenizers import tokenizer_identity
from train.data.verify import remember, verify


def prepared_folder(config: DataConfig) -> Path:
    """Where the tokens of a config are, or will be.

    The name ends in a hash of all that the tokens depend on: the options, the text (for local files
    their paths, sizes and modification times; for the hub its words) and the tokenizer's content.

    Raises:
      DataError: If the source or the tokenizer is unknown or its files are missing.
    """
    held_out: object = config.validation_fraction
    if config.validation_source is not None:
        held_out = open_source(config.validation_source, config.text_column).identity()
    parts = [
        SCHEMA,
        open_source(config.source, config.text_column).identity(),
        held_out,
        tokenizer_identity(config.tokenizer),
        config.max_documents,
        config.shard_tokens,
    ]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    kinds = [spec.partition(":")[0] for spec in (config.source, config.tokenizer)]
    return Path(config.cache_dir) / "-".join([*kinds, key])


def prepare(config: DataConfig, *, progress: Progress | None = None) -> Manifest:
    """Makes the shards of a config if they are not there, and checks them if they are.

    Args:
      config: What to tokenize, and the folder to keep it under.
      progress: Called now and then with the documents and the bytes of text done so far.

    Returns:
      What the folder holds; nothing in it is ever changed later.

    Raises:
      DataError: If a source, the tokenizer or the prepared folder is not as it should be, there is
        no room, or one of the two splits would be empty. Nothing is left behind then.
    """
    folder = prepared_folder(config)
    try:
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _locked(folder.parent / f".{folder.name}.lock") as alone:
                if not folder.exists():
                    _make(config, folder, progress, tidy=alone)
    except OSError as error:
        raise DataError(
            f"cannot be written ({error}); make room there or choose another cache_dir.",
            path=config.cache_dir,
        ) from error
    manifest = Manifest.read(folder)
    verify(folder, manifest)
    return manifest


def _make(config: DataConfig, folder: Path, progress: Progress | None, *, tidy: bool) -> None:
    if tidy:  # Nobody else is at work here: these were left by a process that was killed.
        for leftover in folder.parent.glob(f".{folder.name}.tmp-*"):
            shutil.rmtree(leftover)
    temporary = folder.parent / f".{folder.name}.tmp-{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        manifest = encode(config, temporary, progress)
        if prepared_folder(config) != folder:
            raise DataError(f"a file of {config.source!r} changed while it was read; start again.")
        remember(temporary, manifest)
        with (temporary / MANIFEST_FILE).open("w", encoding="utf-8") as file:
            file.write(manifest.to_json())
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            # Another process was first, and its work is as good as ours.
        _sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Waits until no other process holds the lock; False where the file system knows no locks.

    The system lets the lock go when its process ends, however it ends.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            alone = True
        except OSError:
            alone = False
        yield alone


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
