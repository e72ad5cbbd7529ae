"""Which documents share a row: best fit, the longest first.

The stream is cut before every end of a document, and what is longer than a row is cut again. From
the longest to the shortest, each piece goes into the row with the least space that still holds it:
best-fit decreasing, as in Ding et al. 2024, "Fewer Truncations Improve Language Modeling". All
pieces of one length are placed at once, as in Krell et al. 2021, "Efficient Sequence Packing
without Cross-contamination", so the time hardly depends on how many documents there are. The result
is kept in a file beside the tokens: it is computed once, and all processes read it.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from train.data.batches.stream import TokenStream
from train.data.documents import DataError
from train.host.files import locked, sync_folder, write_whole

_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / the golden ratio: its multiples spread evenly.


@dataclasses.dataclass(frozen=True)
class Packing:
    """The pieces of a split, row after row."""

    context: int
    """Tokens that a row holds."""
    starts: np.ndarray
    """int64 [pieces]: where in the stream the inputs of a piece begin."""
    lengths: np.ndarray
    """int32 [pieces]: how many they are."""
    ends: np.ndarray
    """int64 [rows]: the pieces of this row and of those before it."""

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.ends)

    def row(self, number: int) -> Iterator[tuple[int, int]]:
        """Start and length of each piece of a row, as they follow each other in the stream."""
        first = self.ends[number - 1] if number else 0
        pieces = slice(first, self.ends[number])
        return zip(self.starts[pieces].tolist(), self.lengths[pieces].tolist(), strict=True)

    @property
    def padding(self) -> float:
        """The share of all positions that no document fills."""
        return 1.0 - int(self.lengths.sum(dtype=np.int64)) / (len(self) * self.context)


def pack(tokens: TokenStream, end_of_document: int, context: int) -> Packing:
    """Packs the documents of a split; the same tokens are always packed alike.

    Best fit fills its rows from long pieces to short ones, so they are numbered anew, by a hash of
    where their first piece stands: the first rows are as fair a sample as any.

    Args:
      tokens: Documents with an `end_of_document` between them, at least two tokens.
      end_of_document: The token before which the stream is cut.
      context: Tokens that a row holds, at least 1.

    Raises:
      ValueError: If the context is out of range.
    """
    check_context(context)
    starts, lengths = _cut(tokens.positions(end_of_document), len(tokens) - 1, context)
    rows, openers = best_fit(lengths, context)
    numbers = np.empty_like(openers)
    hashes = starts[openers].astype(np.uint64) * _ODD  # Modulo 2^64, so all differ.
    numbers[np.argsort(hashes)] = np.arange(len(openers))
    rows = numbers[rows]
    order = np.argsort(rows, kind="stable")
    ends = np.cumsum(np.bincount(rows, minlength=len(openers)))
    return Packing(context, starts[order], lengths[order], ends)


def best_fit(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Best-fit decreasing; among rows of equal space the one that has had it longest is taken.

    Args:
      lengths: Of the pieces, each between 1 and `capacity`.
      capacity: What a row holds.

    Returns:
      The row of each piece, and the piece that opened each row.

    Example:
      >>> rows, openers = best_fit(np.array([3, 6, 4, 7]), 10)
      >>> rows.tolist(), openers.tolist()
      ([0, 1, 1, 0], [3, 1])
    """
    order = np.argsort((capacity - lengths).astype(np.min_scalar_type(capacity)), kind="stable")
    rows = np.empty(len(lengths), np.int64)
    openers: list[np.ndarray] = []
    opened = 0
    with_space: dict[int, list[np.ndarray]] = {}
    spaces: list[int] = []  # The keys, sorted.

    def leave(some_rows: np.ndarray, space: int) -> None:
        if len(some_rows) and space:
            if space not in with_space:
                bisect.insort(spaces, space)
            with_space.setdefault(space, []).append(some_rows)

    counts = np.bincount(lengths)
    ends = np.cumsum(counts[::-1])[::-1]
    for length in np.flatnonzero(counts)[::-1].tolist():
        pieces = order[ends[length] - counts[length] : ends[length]]
        while len(pieces):
            index = bisect.bisect_left(spaces, length)
            if index < len(spaces):
                space = spaces.pop(index)
                candidates = np.concatenate(with_space.pop(space))
            else:
                space = capacity
                new = pieces[:: capacity // length]
                candidates = np.arange(opened, opened + len(new))
                openers.append(new)
                opened += len(new)
            each = space // length  # The best fit of the next piece of a length is the same row.
            taken = candidates[: -(-len(pieces) // each)]
            placed = min(len(pieces), len(taken) * each)
            rows[pieces[:placed]] = np.repeat(taken, each)[:placed]
            in_last = placed - (len(taken) - 1) * each
            leave(taken[:-1], space - each * length)
            leave(taken[-1:], space - in_last * length)
            leave(candidates[len(taken) :], space)
            pieces = pieces[placed:]
    return rows, np.concatenate(openers)


def check_context(context: int) -> None:
    """Refuses a row that holds nothing.

    Raises:
      ValueError: If the context is not at least 1.
    """
    if context < 1:
        raise ValueError(f"context = {context} must be at least 1.")


def _cut(ends: np.ndarray, total: int, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Start and length of each piece: documents, cut where they are longer than a row."""
    firsts = np.union1d([0], ends[ends < total])
    sizes = np.diff(firsts, append=total)
    counts = -(-sizes // context)
    index = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(firsts, counts) + index * context
    lengths = np.minimum(np.repeat(firsts + sizes, counts) - starts, context)
    return starts, lengths.astype(np.int32)


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
