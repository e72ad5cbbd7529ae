"""How long it takes until the first step is made, by layers and by how they are stored.

    python -m benchmarks.compile_time                    18 starts; minutes
    python -m benchmarks.compile_time --layers 12        one depth
    python -m benchmarks.compile_time --device gpu       autotuning included

Each start is a process of its own, with an empty folder for JAX's persistent cache (cold), and once
more with what the first one left there (warm). Imports are not counted. `stacked` is how we train:
one array for all layers, unrolled; `rolled` the same in a loop; `dicts` the same model with a dict
of arrays for every layer. Theirs returns the loss alone, ours also norms by layer type.

Exit status: 0 if from 12 layers on the stacked ones compile in no more time than the dicts, and a
warm start takes at most half as long as a cold one; 1 if not.
"""

import concurrent.futures
import multiprocessing
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.parts import outcome, starting
from benchmarks.parts.starting import Phases, Variant
from train.host import provenance

PROGRAM, WARM = 1.0, 0.5
"""Targets: of the dicts' tracing, lowering and compiling; of a cold start."""

JUDGED = 12
"""Layers from which on a program is judged: fewer compile soon, however they are stored."""


@dataclass(frozen=True)
class Options:
    """All of it takes minutes on a CPU."""

    device: outcome.Device = "cpu"
    layers: tuple[int, ...] = (4, 12, 24)
    variants: tuple[Variant, ...] = get_args(Variant)
    output: Path | None = None
    """A file of JSON lines to add the results to."""


@dataclass(frozen=True)
class Start:
    """One variant at one depth."""

    layers: int
    variant: Variant
    cold: Phases
    warm: Phases

    def verdicts(self, dicts: Phases | None) -> dict[str, str]:
        """Of our variant's targets, beside the dicts of as many layers."""
        if self.variant != "stacked":
            return {}
        warm = {"warm": outcome.judge(self.warm.total <= WARM * self.cold.total)}
        if dicts is None or self.layers < JUDGED:
            return warm
        return {"program": outcome.judge(self.cold.program <= PROGRAM * dicts.program)} | warm


def main(options: Options) -> int:
    """Prints a table; returns the exit status."""
    starts = [
        _start(options.device, variant, layers)
        for layers in options.layers
        for variant in options.variants
    ]
    dicts = {start.layers: start.cold for start in starts if start.variant == "dicts"}
    judged = [(start, start.verdicts(dicts.get(start.layers))) for start in starts]
    table = Table("layers", "stored", title="seconds", title_justify="left")
    for column in ("trace", "lower", "compile", "/ dicts", "init", "step", "cold", "warm / cold"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict")
    for start, verdicts in judged:
        table.add_row(*_cells(start, dicts.get(start.layers)), _listed(verdicts))
    console = Console(width=120)
    console.print(table)
    outcome.run_on(options.device)  # Only now: a process that waits needs no GPU.
    console.print(outcome.where(), highlight=False)
    if options.output is not None:
        rows = [asdict(start) | {"verdicts": verdicts} for start, verdicts in judged]
        outcome.append(options.output, "compile_time", provenance.device(), rows)
    return outcome.exit_status(verdict for _, some in judged for verdict in some.values())


def _start(device: outcome.Device, variant: Variant, layers: int) -> Start:
    with tempfile.TemporaryDirectory() as cache:
        cold, warm = (_in_a_process(device, variant, layers, Path(cache)) for _ in range(2))
    return Start(layers, variant, cold, warm)


def _in_a_process(device: outcome.Device, variant: Variant, layers: int, cache: Path) -> Phases:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(starting.start, device, variant, layers, cache).result()


def _cells(start: Start, dicts: Phases | None) -> tuple[str, ...]:
    cold = start.cold
    phases = (cold.trace, cold.lower, cold.compile)
    return (
        str(start.layers),
        start.variant,
        *(f"{seconds:.2f}" for seconds in phases),
        "" if dicts is None else f"{cold.program / dicts.program:.2f}",
        f"{cold.initialize:.2f}",
        f"{cold.first_step:.2f}",
        f"{cold.total:.1f}",
        f"{start.warm.total / cold.total:.2f}",
    )


def _listed(verdicts: dict[str, str]) -> str:
    return ", ".join(f"{what}: {verdict}" for what, verdict in verdicts.items())


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
