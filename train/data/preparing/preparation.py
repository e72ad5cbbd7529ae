"""Tokenizes once: documents in, memory-mapped shards and a manifest out, whole or not at all.

Everything is written into a working folder beside the final one and takes its name in one step at
the very end, so a folder with a final name is complete, whatever happened on the way. What was
finished in the working folder before a crash, file by file, is not done again. A lock keeps two
processes from doing the same work twice; where a file system has no locks both do it, each in a
folder of its own, and the second finds the name taken and uses what the first made.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path

from train.data.config import DataConfig
from train.data.documents import DataError, Progress, UnfinishedError
from train.data.preparing import token_files
from train.data.preparing.encoding import cores, encode
from train.data.preparing.parts import FINISHED
from train.data.preparing.shards import MANIFEST_FILE, SCHEMA, WAY_OUT, Manifest
from train.data.preparing.tokenizers import is_made_by, tokenizer_identity
from train.data.preparing.verify import remember, verify
from train.data.sources import open_source
from train.host.files import locked, sync_folder


def prepared_folder(config: DataConfig) -> Path:
    """Where the tokens of a config are, or will be.

    The name ends in a hash of all that the tokens depend on: the options, the text (for local files
    their paths, sizes and modification times; for the hub its words) and the tokenizer's content.

    Raises:
      DataError: If the source or the tokenizer is unknown or its files are missing.
    """
    if token_files.is_named(config.source):
        parts = [SCHEMA, *token_files.identity(config)]
    else:
        parts = [SCHEMA, *_identity_of_text(config)]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    kinds = [spec.partition(":")[0] for spec in (config.source, config.tokenizer)]
    return Path(config.cache_dir) / "-".join([*kinds, key])


def prepare(
    config: DataConfig,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    full: bool = False,
) -> Manifest:
    """Makes the shards of a config if they are not there, and checks them if they are.

    Args:
      config: What to tokenize, and the folder to keep it under.
      workers: How many files are read at a time, each by a process; all cores if None. The shards
        do not depend on it.
      progress: Called now and then with what is done so far.
      full: Hash every shard that is there, whether it was touched since the last time or not.

    Returns:
      What the folder holds; nothing in it is ever changed later.

    Raises:
      DataError: If a source, the tokenizer or the prepared folder is not as it should be, there is
        no room, or one of the two splits would be empty.
      ValueError: If `workers` is less than 1.
    """
    workers = cores() if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers = {workers} must be at least 1.")
    folder = prepared_folder(config)
    try:
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with locked(folder.parent / f".{folder.name}.lock") as alone:
                if not folder.exists():
                    _make(config, folder, workers, progress, alone=alone)
    except OSError as error:
        raise DataError(
            f"cannot be written ({error}); make room there or choose another cache_dir.",
            path=config.cache_dir,
        ) from error
    manifest = Manifest.read(folder)
    if not is_made_by(config.tokenizer, manifest.tokenizer, manifest.tokenizer_fingerprint):
        message = f"made by {manifest.tokenizer!r} and not by {config.tokenizer!r}; {WAY_OUT}"
        raise DataError(message, path=folder)
    verify(folder, manifest, full=full)
    return manifest


def _make(
    config: DataConfig, folder: Path, workers: int, progress: Progress | None, *, alone: bool
) -> None:
    # Somebody else may be at work in a folder of the plain name if there are no locks.
    work = folder.parent / f".{folder.name}.work{'' if alone else '-' + uuid.uuid4().hex}"
    whole = work / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir(parents=True)
    keep = False
    try:
        if token_files.is_named(config.source):
            manifest = token_files.link(config, whole, progress)
        else:
            manifest = encode(config, work, whole, workers, progress)
        if prepared_folder(config) != folder:
            raise DataError(f"a file of {config.source!r} changed while it was read; start again.")
        remember(whole, manifest)
        with (whole / MANIFEST_FILE).open("w", encoding="utf-8") as file:
            file.write(manifest.to_json())
            file.flush()
            os.fsync(file.fileno())
        sync_folder(whole)
        try:
            whole.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            # Another process was first, and its work is as good as ours.
        sync_folder(folder.parent)
    except BaseException as error:
        mendable = isinstance(error, DataError) and not isinstance(error, UnfinishedError)
        keep = alone and not mendable and any(work.glob(f"*{FINISHED}"))
        raise
    finally:
        shutil.rmtree(whole if keep else work, ignore_errors=True)


def _identity_of_text(config: DataConfig) -> list[object]:
    held_out: object = config.validation_fraction
    if config.validation_source is not None:
        held_out = open_source(config.validation_source, config.text_column).identity()
    return [
        open_source(config.source, config.text_column).identity(),
        held_out,
        tokenizer_identity(config.tokenizer),
        config.max_documents,
        config.shard_tokens,
    ]
