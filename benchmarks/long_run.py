"""Whether a run's step time, memory, open files and threads stay what they are, for 20,000 steps.

    python -m benchmarks.long_run                  0.13M parameters, a checkpoint every 200 steps
    python -m benchmarks.long_run --device gpu     the same on a GPU

It is a real run: batches are read, records written, checkpoints saved and old ones removed. The
process is looked at half-way between two checkpoints, when no save is under way. Compared are two
fifths of the run: the second, in which everything has been done before, and the last; the step's
time and the memory in use by their medians, the rest by the most that was seen.

A step's time is the processor's on a CPU, for that of the clock belongs to the whole machine, and
the clock's on a GPU. The process's memory is its own, without the pages of mapped files, of which
it holds more the more of the data it has read. It goes up and down by a step's temporaries, which
the heap has one, two or three places for; so what is in use is looked at, too, after everything
free has been given back.

Exit status: 0 if the targets are met, 1 if one is missed.
"""

import dataclasses
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.parts import outcome
from train.config import named
from train.config.run import RunConfig
from train.host import provenance
from train.host.allocator import give_back_freed_memory, share_heap
from train.run.loop import Progress
from train.run.train import train

TARGETS: Mapping[str, float] = MappingProxyType(
    {
        "ms a step": 1.05,
        "MB of the process": 1.20,
        "MB of JAX arrays": 1.0,
        "open files": 1.0,
        "threads": 1.10,  # A pool for writing checkpoints has one more or fewer.
        "MB in use": 1.05,
    }
)
"""The last fifth over the second, at most."""

MEDIANS = "ms a step", "MB in use"
"""What is compared by its median, and not by the most of it."""


@dataclass(frozen=True)
class Options:
    """Defaults are for the targets."""

    device: outcome.Device = "cpu"
    steps: int = 20_000
    every: int = 200
    """Steps between two checkpoints, and between two looks at the process (at least 2)."""
    output: Path | None = None
    """A file of JSON lines to add the results to."""


@dataclass(frozen=True)
class Trend:
    """One row: a quantity early and late in the run, and its extremes between."""

    what: str
    early: float
    late: float
    least: float
    most: float

    @property
    def ratio(self) -> float:
        """Late over early."""
        return self.late / self.early

    @property
    def verdict(self) -> str:
        """Whether it stayed."""
        return outcome.judge(self.ratio <= TARGETS[self.what])


def main(options: Options) -> int:
    """Prints a table; returns the exit status."""
    outcome.run_on(options.device)
    share_heap()  # As a command does before anything else.
    config = dataclasses.replace(
        named.nano(), steps=options.steps, checkpoint_every=options.every,
        eval_every=options.every, eval_batches=1,
    )  # fmt: skip
    trends = measure(config, time.process_time if options.device == "cpu" else time.perf_counter)
    title = f"{options.steps:,} steps with a checkpoint every {options.every}"
    columns = "", "second fifth", "last fifth", "least", "most", "ratio", "at most", "verdict"
    table = Table(*columns, title=title)
    for row in trends:
        numbers = (f"{number:.4g}" for number in (row.early, row.late, row.least, row.most))
        table.add_row(row.what, *numbers, f"{row.ratio:.3f}", f"{TARGETS[row.what]}", row.verdict)
    console = Console(width=110)
    console.print(table)
    console.print(outcome.where(), highlight=False)
    if options.output is not None:
        rows = [asdict(row) | {"ratio": row.ratio, "verdict": row.verdict} for row in trends]
        outcome.append(options.output, "long_run", provenance.device(), rows)
    return outcome.exit_status(row.verdict for row in trends)


def measure(config: RunConfig, clock: Callable[[], float]) -> list[Trend]:
    """Trains, looks at this process between checkpoints, and compares what was seen."""
    looks: list[dict[str, float]] = []
    before, after = [], []

    def look(progress: Progress) -> None:
        if progress.step % config.checkpoint_every == config.checkpoint_every // 2:
            before.append(clock())
            looks.append(look_at_process())
            after.append(clock())

    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder) / "run", on_progress=look)
    step = np.subtract(before[1:], after[:-1]) / config.checkpoint_every * 1e3
    series = {"ms a step": step} | {
        what: np.array([look[what] for look in looks]) for what in looks[0]
    }
    return [trend(what, numbers) for what, numbers in series.items()]


def look_at_process() -> dict[str, float]:
    """What this process holds just now; from /proc, so on Linux alone."""
    seen = {
        "MB of the process": memory(),
        "MB of JAX arrays": sum(array.nbytes for array in jax.live_arrays()) / 1e6,
        "open files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
    }
    time.sleep(0.1)  # The next step is on its way, with temporaries.
    give_back_freed_memory()
    return seen | {"MB in use": memory()}


def memory() -> float:
    """MB that belong to this process alone."""
    anonymous = re.search(r"^RssAnon:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    assert anonymous is not None
    return int(anonymous[1]) * 1024 / 1e6


def trend(what: str, numbers: np.ndarray) -> Trend:
    """The second and the last fifth of the numbers, and the extremes from the second on."""
    typical = np.median if what in MEDIANS else np.max
    fifth = len(numbers) // 5
    early, late = float(typical(numbers[fifth : 2 * fifth])), float(typical(numbers[-fifth:]))
    return Trend(what, early, late, float(numbers[fifth:].min()), float(numbers[fifth:].max()))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
