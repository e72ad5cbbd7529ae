"""The share of a run's time in which it waits for the next batch.

    python -m benchmarks.input_wait                  a real run of 0.13M parameters on a CPU
    python -m benchmarks.input_wait --device gpu     a real run of 134M

First the loop itself, on the embedded text: the time inside `next(batches)` over the run's training
time. Then what one H100 asks for: batches of 16 windows of 4096 tokens from a mapped file, every
131 ms at half a million tokens a second. Between two of them this program sleeps, as one does whose
GPU computes; a loop that asks without a pause would wait for the reader. Judged is the median over
batches. The mean is shown beside it: in it are the batches at which something else had the core.

Exit status: 0 if the targets are met, 1 if one is missed.
"""

import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

import models
from benchmarks.parts import outcome
from train.config import named
from train.config.run import RunConfig, ScheduleConfig
from train.data import Dataset, open_dataset
from train.data.batches.loader import train_batches
from train.data.batches.rows import Batch, Windows
from train.data.batches.stream import TokenStream
from train.host import provenance
from train.run.train import train
from train.tasks.language_model import language_model

TARGET = 0.002
RATE, BATCH, CONTEXT = 500_000, 16, 4096
"""What an H100 consumes: tokens a second, and the batches in which it does."""

PAUSE = 0.01
"""Seconds between two batches; fewer than an H100 computes, so that the benchmark ends."""


@dataclass(frozen=True)
class Options:
    """Defaults are for the targets."""

    device: outcome.Device = "cpu"
    steps: int = 200
    """Of the run; and batches that are read at the H100's rate."""
    tokens: int = 20_000_000
    """Tokens in the mapped file."""
    output: Path | None = None
    """A file of JSON lines to add the results to."""


@dataclass(frozen=True)
class Share:
    """One row; microseconds."""

    where: str
    median: float
    mean: float
    step: float
    """Between two batches, on average."""

    @property
    def share(self) -> float:
        """Of a step's time."""
        return self.median / self.step

    @property
    def verdict(self) -> str:
        """Whether it is small enough."""
        return outcome.judge(self.share <= TARGET)


def main(options: Options) -> int:
    """Prints a table; returns the exit status."""
    outcome.run_on(options.device)
    config = run_config(options)
    with tempfile.TemporaryDirectory() as folder:
        shares = [in_a_run(config, Path(folder)), at_the_rate(options, Path(folder))]
    table = Table("", "us a batch", "mean", "ms a step", "share", "at most", "verdict")
    for row in shares:
        microseconds = f"{row.median:.0f}", f"{row.mean:.0f}"
        share = f"{row.share:.3%}", f"{TARGET:.1%}", row.verdict
        table.add_row(row.where, *microseconds, f"{row.step / 1e3:.1f}", *share)
    console = Console(width=110)
    console.print(table)
    console.print(outcome.where(), highlight=False)
    if options.output is not None:
        rows = [asdict(row) | {"share": row.share, "verdict": row.verdict} for row in shares]
        outcome.append(options.output, "input_wait", provenance.device(), rows)
    return outcome.exit_status(row.verdict for row in shares)


def run_config(options: Options) -> RunConfig:
    """The run of the loop: a small model on a CPU, the papers' on a GPU."""
    if options.device == "gpu":
        model = models.PRESETS["paper_wide"]
        config = RunConfig(model=model, batch_size=BATCH, context=CONTEXT)
    else:
        config = named.nano()
    steps, schedule = options.steps, ScheduleConfig(warmup_steps=0)
    return dataclasses.replace(
        config, schedule=schedule, steps=steps, eval_every=steps, eval_batches=1,
        checkpoint_every=steps,
    )  # fmt: skip


def in_a_run(config: RunConfig, folder: Path, dataset: Dataset | None = None) -> Share:
    """Trains, and takes the time of every call of `next`."""
    timed = _TimedDataset(dataset or open_dataset(config.data))
    task = language_model(config, timed)  # type: ignore[arg-type]
    final = train(config, folder / "run", task=task)
    return timed.batches.share("the loop", final.seconds / config.steps)


def at_the_rate(options: Options, folder: Path) -> Share:
    """Reads the batches that an H100 asks for, one after the other."""
    tokens = np.random.default_rng(0).integers(0, 32_000, options.tokens, dtype=np.uint16)
    tokens.tofile(folder / "tokens.bin")
    windows = Windows(TokenStream.open(folder, ["tokens.bin"], "uint16"), CONTEXT)
    batches = _TimedBatches(train_batches(windows, BATCH, seed=0))
    for _ in range(options.steps + 1):
        next(batches)
        time.sleep(PAUSE)
    return batches.share("an H100's rate", BATCH * CONTEXT / RATE)


class _TimedBatches:
    """Batches, and what each of them took."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._seconds: list[float] = []

    def __next__(self) -> Batch:
        start = time.perf_counter()
        batch = next(self._batches)
        self._seconds.append(time.perf_counter() - start)
        return batch

    def share(self, where: str, step: float) -> Share:
        """The row, without the first batch, before which the reader starts."""
        microseconds = 1e6 * np.array(self._seconds[1:])
        return Share(where, float(np.median(microseconds)), float(microseconds.mean()), 1e6 * step)


class _TimedDataset:
    """A data set whose training batches are timed."""

    batches: _TimedBatches

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def train_batches(self, *args: Any, **options: Any) -> _TimedBatches:
        """As the data set's own."""
        self.batches = _TimedBatches(self._dataset.train_batches(*args, **options))
        return self.batches


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
