"""Is a prepared folder still what its manifest says? Cheaply on every start, fully when in doubt.

The size of every file is compared each time. Its hash is, too, if the file was touched since it was
last known to be good: verified.json remembers sizes and modification times. It is a mere memory; a
folder copied to another machine, or one that cannot be written, is hashed again.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from train.data.errors import DataError
from train.data.manifest import WAY_OUT, Manifest, Shard

_BLOCK_BYTES = 8 << 20
_MEMORY_FILE = "verified.json"


def verify(folder: Path, manifest: Manifest, *, full: bool = False) -> None:
    """Compares every shard with the manifest.

    Args:
      folder: The prepared folder.
      manifest: What was read from it.
      full: Hash every file, touched or not.

    Raises:
      DataError: If a file is missing, or of another size, or of another content.
    """
    for name, shard in manifest.shards.items():
        _check_size(folder / name, shard, manifest.dtype)
    stamps = _stamps(folder, manifest)
    known = {} if full else _remembered(folder)
    doubtful = [name for name in manifest.shards if known.get(name) != stamps[name]]
    for name in doubtful:
        _check_content(folder / name, manifest.shards[name], manifest)
    if doubtful:
        remember(folder, manifest)


def remember(folder: Path, manifest: Manifest) -> None:
    """Notes that these files are good as they are now."""
    temporary = folder / f"{_MEMORY_FILE}.{os.getpid()}"
    try:
        temporary.write_text(json.dumps(_stamps(folder, manifest)))
        temporary.replace(folder / _MEMORY_FILE)
    except OSError:  # A read-only folder: its files are hashed on every start.
        temporary.unlink(missing_ok=True)


def _stamps(folder: Path, manifest: Manifest) -> dict[str, list[int]]:
    stats = {name: (folder / name).stat() for name in manifest.shards}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _remembered(folder: Path) -> dict[str, list[int]]:
    try:
        memory = json.loads((folder / _MEMORY_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return memory if isinstance(memory, dict) else {}


def _check_size(path: Path, shard: Shard, dtype: str) -> None:
    if not path.is_file():
        raise DataError(f"missing; {WAY_OUT}", path=path)
    size = path.stat().st_size
    wanted = shard.tokens * np.dtype(dtype).itemsize
    if size != wanted:
        raise DataError(
            f"the file has {size} bytes and the manifest says {wanted}; {WAY_OUT}",
            path=path,
            offset=min(size, wanted),
        )


def _check_content(path: Path, shard: Shard, manifest: Manifest) -> None:
    kind = np.dtype(manifest.dtype).newbyteorder("<")
    found = hashlib.sha256()
    position = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            found.update(block)
            tokens = np.frombuffer(block, kind)
            first = int(np.argmax(tokens >= manifest.vocab_size))
            if tokens[first] >= manifest.vocab_size:
                raise DataError(
                    f"{tokens[first]} is not in the vocabulary of {manifest.vocab_size} tokens; "
                    f"{WAY_OUT}",
                    path=path,
                    offset=position + first,
                    unit="token",
                )
            position += len(tokens)
    if found.hexdigest() != shard.sha256:
        raise DataError(
            f"the content has changed (SHA-256 {found.hexdigest()[:16]}..., in the manifest "
            f"{shard.sha256[:16]}...); {WAY_OUT}",
            path=path,
        )
