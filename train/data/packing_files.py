"""A packing kept beside the tokens, so that it is computed once and shared by all processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from pathlib import Path

import numpy as np

from train.data.batches.packing import Packing, pack
from train.data.batches.stream import TokenStream
from train.data.errors import DataError
from train.host.files import sync_folder, write_whole
from train.locking import locked

_ARRAYS = ("starts", "lengths", "ends")
_HASHES = "sha256.txt"


def open_packing(
    folder: Path, split: str, tokens: TokenStream, end_of_document: int, context: int
) -> Packing:
    """Maps the packing of a split, which is computed and left there where it is missing.

    Args:
      folder: The prepared folder. One that cannot be written is no harm.
      split: Which one, for the name.
      tokens: The split.
      end_of_document: As for `pack`.
      context: As for `pack`.

    Raises:
      DataError: If what is there is damaged.
      ValueError: As for `pack`.
    """
    place = folder / f"packing-{split}-{context}"
    if not place.exists():
        packing = pack(tokens, end_of_document, context)
        _keep(packing, place)
        return packing
    try:
        whole = (place / _HASHES).read_text(encoding="utf-8") == _hashes(place)
    except (OSError, ValueError):
        whole = False
    if whole:
        arrays = (np.load(place / f"{name}.npy", mmap_mode="r") for name in _ARRAYS)
        packing = Packing(context, *map(np.asarray, arrays))
        whole = packing.lengths.sum() == len(tokens) - 1
    if not whole:
        raise DataError("damaged; delete this folder, it is made again.", path=place)
    return packing


def _keep(packing: Packing, place: Path) -> None:
    folder = place.parent
    with (
        contextlib.suppress(OSError),  # A read-only folder, or another process was first.
        locked(folder.with_name(f".{folder.name}.lock")) as alone,  # As for preparing.
    ):
        # A name that does not change: what a killed process has left is written over.
        temporary = folder / f".{place.name}.{'new' if alone else uuid.uuid4().hex}"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            for name in _ARRAYS:
                with (temporary / f"{name}.npy").open("wb") as file:
                    np.save(file, getattr(packing, name))
                    file.flush()
                    os.fsync(file.fileno())
            write_whole(temporary / _HASHES, _hashes(temporary).encode())
            sync_folder(temporary)
            temporary.rename(place)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _hashes(place: Path) -> str:
    digests = []
    for name in _ARRAYS:
        with (place / f"{name}.npy").open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return "\n".join(digests)
