"""How fast batches are read, from windows and from packed documents, on one CPU core.

    python -m benchmarks.data_pipeline                     the target, on a quiet machine
    python -m benchmarks.data_pipeline --tokens 4000000    a few seconds

The tokens are random and of 16 bits, in documents whose lengths are spread as those of FineWeb are
in GPT-2's tokens. They lie in one mapped file, which is in the system's memory after the first
round. A row shows the median and the quartiles over rounds, in which every kind of batch has its
turn; how long it took to find out which documents share a row, for all of them; and how much of
the rows is empty then.

Exit status: 1 if the median from windows is below the target at a context of 1024 or more.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.parts import outcome
from train.data.batches.loader import train_batches
from train.data.batches.packing import pack
from train.data.batches.rows import Batch, PackedDocuments, Windows
from train.data.batches.stream import TokenStream
from train.data.config import PackingKind
from train.host import provenance

TARGET = 10.0
"""Millions of tokens a second, from windows."""

VOCAB_SIZE = 50257
END_OF_DOCUMENT = VOCAB_SIZE - 1


@dataclass(frozen=True)
class Options:
    """Defaults are for the target."""

    tokens: int = 50_000_000
    """Tokens in the file."""
    contexts: tuple[int, ...] = (128, 1024, 2048, 4096)
    """Tokens in a row."""
    batch_tokens: int = 65536
    """Tokens in a batch."""
    rounds: int = 9
    """How often each kind of batch has its turn."""
    seconds: float = 0.5
    """How long a turn is."""
    output: Path | None = None
    """A file of JSON lines to add the results to."""


@dataclass(frozen=True)
class Speed:
    """One kind of batch; millions of tokens a second."""

    packing: PackingKind
    context: int
    low: float
    median: float
    high: float
    pack_seconds: float
    padding: float


def main(options: Options) -> int:
    """Prints a table; returns the exit status."""
    jax.config.update("jax_platforms", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        speeds = measure(options, Path(folder))
    table = Table("context", "rows", "million tokens/s", "quartiles", "packed in", "padding")
    for speed in speeds:
        packed = speed.packing == "documents"
        table.add_row(
            str(speed.context),
            speed.packing,
            f"{speed.median:.1f}",
            f"{speed.low:.1f} to {speed.high:.1f}",
            f"{speed.pack_seconds:.2f} s" if packed else "",
            f"{100 * speed.padding:.3f} %" if packed else "",
        )
    console = Console(width=100)
    console.print(table)
    device = f"{provenance.device()}, {os.cpu_count()} cores"
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions().items())
    console.print(f"{options.tokens:,} tokens; {device}; {versions}", highlight=False)
    if options.output is not None:
        outcome.append(options.output, "data_pipeline", device, [asdict(speed) for speed in speeds])
    judged = [s for s in speeds if s.packing == "windows" and s.context >= 1024]
    return int(any(speed.median < TARGET for speed in judged))


def measure(options: Options, folder: Path) -> list[Speed]:
    """Reads batches of every kind in turn.

    Args:
      options: How many of them.
      folder: Where the tokens are written.
    """
    stream = _write(options.tokens, folder)
    kinds = [(context, kind) for context in options.contexts for kind in ("windows", "documents")]
    batches: list[Iterator[Batch]] = []
    packed = []
    for context, kind in kinds:
        start = time.perf_counter()
        if kind == "windows":
            rows: Windows | PackedDocuments = Windows(stream, context)
        else:
            rows = PackedDocuments(stream, pack(stream, END_OF_DOCUMENT, context))
        packed.append((time.perf_counter() - start, rows.padding))
        size = min(max(1, options.batch_tokens // context), rows.trained)
        batches.append(train_batches(rows, size, seed=0))
    for some in batches:  # The first ones wait for the disk, and for Grain.
        _read(some, options.seconds)
    rates = [[_read(some, options.seconds) for some in batches] for _ in range(options.rounds)]
    quartiles = np.quantile(np.array(rates), (0.25, 0.5, 0.75), axis=0)
    return [
        Speed(kind, context, *map(float, own), seconds, padding)
        for (context, kind), own, (seconds, padding) in zip(kinds, quartiles.T, packed, strict=True)
    ]


def _write(count: int, folder: Path) -> TokenStream:
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, END_OF_DOCUMENT, count, dtype=np.uint16)
    lengths = generator.lognormal(6.0, 1.0, count // 256).astype(np.int64) + 1
    ends = np.cumsum(lengths)
    tokens[ends[ends < count]] = END_OF_DOCUMENT
    tokens.tofile(folder / "tokens.bin")
    return TokenStream.open(folder, ["tokens.bin"], "uint16")


def _read(batches: Iterator[Batch], seconds: float) -> float:
    """Millions of tokens a second; padding is no token."""
    start = time.perf_counter()
    tokens = 0.0
    while time.perf_counter() < start + seconds:
        tokens += next(batches).weights_BT.sum()
    return tokens / (time.perf_counter() - start) / 1e6


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
