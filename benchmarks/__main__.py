"""All benchmarks of a device, the most telling first, and one table of what came out.

    python -m benchmarks                                            on a CPU: an hour
    python -m benchmarks --device gpu --output-folder results/gpu   on a GPU: at most 25 minutes
    python -m benchmarks --only dispatch input_wait                 some of them
    python -m benchmarks --quick                                    whether all of them run

Each is a process of its own with a time limit and writes its record as it ends, so that a run that
is cut off leaves what it has. A target that is missed stops nothing. What needs a compiler for
another device is not here: `make bench-h100`.

Exit status: 0 if every target is met, 1 otherwise.
"""

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.parts import outcome


@dataclass(frozen=True)
class Benchmark:
    """One module, and how it is called."""

    minutes: float
    """The longest that it may take on a GPU."""
    gpu: str | None = ""
    """Its options on a GPU; None where it says nothing about one."""
    quick: str = ""
    """Its options for a try."""
    needs: str | None = None
    """A package that is not in the environment."""


BENCHMARKS: Mapping[str, Benchmark] = {
    "train_step": Benchmark(7, quick="--shapes tiny --rounds 3", needs="torch"),
    "step_overhead": Benchmark(5, quick="--model nano --tokens 1024 --rounds 3 --steps 1"),
    "optimizer_step": Benchmark(
        5,
        gpu="--seconds 2 --trees stacked --rounds 5 --tries 1",
        quick="--size tiny --trees stacked --only stratopt --rounds 2 --seconds 0.01",
    ),
    "checkpoint_stall": Benchmark(3, quick="--model nano --rounds 2"),
    "input_wait": Benchmark(2, quick="--steps 8 --tokens 1000000"),
    "dispatch": Benchmark(1, quick="--layers 2 --rounds 3"),
    "compile_time": Benchmark(2, gpu="--layers 12 --variants stacked dicts", quick="--layers 2"),
    "scaling": Benchmark(5, gpu=None, quick="--size tiny --rounds 2 --rows fsdp-8"),
    "long_run": Benchmark(5, gpu=None, quick="--steps 100 --every 5"),
    "data_pipeline": Benchmark(1, gpu=None, quick="--tokens 1000000 --rounds 2"),
}
"""The most telling first: a machine that is rented may be gone before the end."""

CPU_PATIENCE = 6
"""How much longer a benchmark may take on a CPU than on a GPU."""


@dataclass(frozen=True)
class Options:
    """Which benchmarks, where."""

    device: outcome.Device = "cpu"
    output_folder: Path | None = None
    """Where each leaves a file of JSON lines of its own name."""
    only: tuple[str, ...] = ()
    """Benchmarks by name; by default all."""
    quick: bool = False
    """Next to nothing of each: the numbers mean nothing."""


def main(options: Options) -> int:
    """Runs them one after the other; returns the exit status."""
    console, results = Console(width=110), {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.output_folder or Path(temporary)).absolute()
        for name in chosen(options):
            console.rule(name)
            start = time.monotonic()
            results[name] = run(name, options, folder / f"{name}.jsonl"), time.monotonic() - start
    table = Table("benchmark", "targets", "seconds", title="all of them", title_justify="left")
    for name, (result, seconds) in results.items():
        table.add_row(name, result, f"{seconds:.0f}")
    console.print(table)
    return int(any(result != outcome.MET for result, _ in results.values()))


def chosen(options: Options) -> list[str]:
    """The benchmarks that say something about the device, in their order.

    Raises:
      ValueError: There is no benchmark of such a name.
    """
    for name in options.only:
        if name not in BENCHMARKS:
            raise ValueError(f"There is no benchmark {name!r}: choose from {[*BENCHMARKS]}.")
    names = [name for name in BENCHMARKS if not options.only or name in options.only]
    return [name for name in names if options.device == "cpu" or BENCHMARKS[name].gpu is not None]


def command(name: str, options: Options, output: Path) -> list[str]:
    """How a benchmark is called."""
    benchmark = BENCHMARKS[name]
    words = [sys.executable, "-m", f"benchmarks.{name}"]
    if benchmark.gpu is not None:
        words += ["--device", options.device]
    if options.quick:
        words += benchmark.quick.split()
    elif options.device == "gpu" and benchmark.gpu is not None:
        words += benchmark.gpu.split()
    return [*words, "--output", str(output)]


def run(name: str, options: Options, output: Path) -> str:
    """What came out: a verdict, or why there is none.

    Python ends with 1 after an error, as a benchmark does after a missed target; but only a
    benchmark that came to its end adds to its records.
    """
    benchmark = BENCHMARKS[name]
    if benchmark.needs is not None and importlib.util.find_spec(benchmark.needs) is None:
        return f"skipped: {benchmark.needs} is not installed"
    before = output.stat().st_size if output.exists() else 0
    minutes = benchmark.minutes * (1 if options.device == "gpu" else CPU_PATIENCE)
    root = Path(__file__).parent.parent
    try:
        done = subprocess.run(command(name, options, output), cwd=root, timeout=60 * minutes)
    except subprocess.TimeoutExpired:
        return f"stopped after {minutes:g} minutes"
    if not output.exists() or output.stat().st_size == before:
        return f"failed with status {done.returncode}"
    verdicts = {status: verdict for verdict, status in outcome.STATUS.items()}
    return verdicts[done.returncode]


if __name__ == "__main__":
    try:
        status = main(tyro.cli(Options, description=__doc__))
    except ValueError as error:
        sys.exit(f"{error}")
    sys.exit(status)
