"""Is a prepared folder still what its manifest says? Cheaply on every start, fully when in doubt.

The size of every file is compared each time. Its hash is, too, if the file was touched since it was
last known to be good: verified.json remembers its size, and when it was modified and changed. The
latter no program can set back. It is a mere memory; a folder copied to another machine, or one that
cannot be written, is hashed again. A disk that alters bytes on its own leaves no sign: `full` finds
that.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from train.data.documents import DataError
from train.data.preparing.shards import WAY_OUT, Manifest, Shard
from train.data.sources.files import open_file
from train.host.files import write_whole

_BLOCK_BYTES = 8 << 20
_MEMORY_FILE = "verified.json"


def verify(folder: Path, manifest: Manifest, *, full: bool = False) -> None:
    """Compares every shard with the manifest.

    Args:
      folder: The prepared folder.
      manifest: What was read from it.
      full: Hash every file, touched or not.

    Raises:
      DataError: If a file is missing, a link, of another size or of another content.
    """
    _refuse_links(folder, manifest)
    for name, shard in manifest.shards.items():
        _check_size(folder / name, shard, manifest)
    stamps = _stamps(folder, manifest)
    known = {} if full else _remembered(folder)
    doubtful = [name for name in manifest.shards if known.get(name) != stamps[name]]
    for name in doubtful:
        _check_content(folder / name, manifest.shards[name], manifest)
    if doubtful:
        _remember(folder, stamps)  # From before the hashing: what changed since is hashed again.


def remember(folder: Path, manifest: Manifest) -> None:
    """Notes that these files are good as they are now."""
    _remember(folder, _stamps(folder, manifest))


def _remember(folder: Path, stamps: dict[str, list[int]]) -> None:
    with contextlib.suppress(OSError):  # A read-only folder: its files are hashed on every start.
        write_whole(folder / _MEMORY_FILE, json.dumps(stamps).encode())


def _stamps(folder: Path, manifest: Manifest) -> dict[str, list[int]]:
    stats = {name: (folder / name).stat() for name in manifest.shards}
    return {
        name: [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for name, stat in stats.items()
    }


def _remembered(folder: Path) -> dict[str, list[int]]:
    try:
        memory = json.loads((folder / _MEMORY_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return memory if isinstance(memory, dict) else {}


def token_blocks(
    path: Path, dtype: str, vocab_size: int, *, header_bytes: int = 0, way_out: str
) -> Iterator[np.ndarray]:
    """Yields the tokens of a file, some megabytes at a time.

    Args:
      path: The file.
      dtype: Of its tokens.
      vocab_size: Every token is smaller than this.
      header_bytes: Where they begin.
      way_out: What to do about a token that is not.

    Raises:
      DataError: If there is one.
    """
    kind = np.dtype(dtype).newbyteorder("<")
    position = 0
    with open_file(path) as file:
        file.seek(header_bytes)
        while block := file.read(_BLOCK_BYTES):
            tokens = np.frombuffer(block, kind, len(block) // kind.itemsize)  # It may be growing.
            first = int(np.argmax(tokens >= vocab_size))
            if tokens[first] >= vocab_size:
                raise DataError(
                    f"{tokens[first]} is not in the vocabulary of {vocab_size} tokens; {way_out}",
                    path=path,
                    offset=position + first,
                    unit="token",
                )
            yield tokens
            position += len(tokens)


def _refuse_links(folder: Path, manifest: Manifest) -> None:
    linked = manifest.shards if manifest.header_bytes else {}  # Token files of elsewhere.
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and path.name not in linked:
            raise DataError(f"a link, where a file was written; {WAY_OUT}", path=path)


def _check_size(path: Path, shard: Shard, manifest: Manifest) -> None:
    if not path.is_file():
        raise DataError(f"missing; {WAY_OUT}", path=path)
    size = path.stat().st_size
    wanted = manifest.header_bytes + shard.tokens * np.dtype(manifest.dtype).itemsize
    if size != wanted:
        raise DataError(
            f"the file has {size} bytes and the manifest says {wanted}; {WAY_OUT}",
            path=path,
            offset=min(size, wanted),
        )


def _check_content(path: Path, shard: Shard, manifest: Manifest) -> None:
    found = hashlib.sha256()
    for tokens in token_blocks(
        path,
        manifest.dtype,
        manifest.vocab_size,
        header_bytes=manifest.header_bytes,
        way_out=WAY_OUT,
    ):
        found.update(tokens.data)
    if found.hexdigest() != shard.sha256:
        raise DataError(
            f"the content has changed (SHA-256 {found.hexdigest()[:16]}..., in the manifest "
            f"{shard.sha256[:16]}...); {WAY_OUT}",
            path=path,
        )
