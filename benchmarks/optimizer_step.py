"""What an optimizer's update costs, as a ratio to AdamW's.

    python -m benchmarks.optimizer_step                      the targets, on a quiet machine
    python -m benchmarks.optimizer_step --clock cpu          on a busy one: the processes' own time
    python -m benchmarks.optimizer_step --size small         a tenth of the parameters
    python -m benchmarks.optimizer_step --device gpu         on a GPU

Every program is one jitted, donated update in a process of its own, on the CPU pinned to one core.
The processes run in turn: the rival, the rival again (A/A), the optimizer, a copy of the memory. A
row shows median and quartiles of the ratios within a round, and which share of the copy's speed an
optimizer reaches for the bytes that it cannot avoid.

Exit status: 0 if every target is met, 1 if one is missed, 2 if a row is not trustworthy because the
median of its A/A control lies outside 0.97 to 1.03.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.parts import equal_updates, outcome, stepping, timing, trees
from benchmarks.parts.contenders import CONTENDERS, chosen
from benchmarks.parts.outcome import MET, MISSED, UNTRUSTED
from benchmarks.parts.timing import Clock, Timing

KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}
"""What `train.host.allocator` asks of glibc, said to the processes."""

ROOFLINE = 0.8
"""On a GPU, the least share of the copy's speed."""

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """Defaults are for the targets on a CPU."""

    device: Literal["cpu", "gpu"] = "cpu"
    """Targets for time hold on a CPU, that for the use of the memory's speed on a GPU."""
    size: trees.Size = "full"
    """full: 133 million parameters, and 14 in 500 leaves; small: 9 and 2; tiny: for tests."""
    trees: tuple[str, ...] = trees.TREES
    """Which trees: stacked (11 leaves), unstacked (115) and many (500)."""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Optimizers by name; by default all."""
    rounds: int = 15
    """How often every program has its turn."""
    seconds: float = 0.5
    """How long a turn is at least; take 2 or more on a GPU."""
    clock: Clock = "wall"
    """Which time decides; both are shown."""
    tries: int = 3
    """How often a row is timed until its control holds."""
    keep_memory: bool = False
    """Have the allocator keep what is freed, as `train` does: temporaries, which clipped AdamW has
    and ours have not, then cost no page faults."""
    core: int | None = None
    """The CPU core to run on; by default the last."""
    output: Path | None = None
    """A file of JSON lines to add the results to."""


def main(options: Options) -> int:
    """Prints a table a tree; returns the exit status."""
    names = [name for name in chosen(options.only) if name != CONTENDERS[name].rival]
    console = Console(width=120)
    stepping.prepare(options.device, options.core)
    if options.keep_memory:
        os.environ |= KEEP_MEMORY
    if wrong := _in_a_process(equal_updates.disagreements):
        console.print(f"[red]These do not compute what AdamW does: {'; '.join(wrong)}.[/]")
        return 1
    rows = []
    for tree in options.trees:
        table = _table(tree)
        for name in names:
            console.print(f"[dim]{tree}: {name} beside {CONTENDERS[name].rival} ...[/]")
            found = _measure(name, tree, options)
            rows.append(dataclasses.asdict(found) | {"verdict": verdict(found, options)})
            table.add_row(*_cells(found), rows[-1]["verdict"])
        console.print(table)
    if options.output:
        outcome.append(options.output, "optimizer_step", rows[0]["device"], rows)
    verdicts = {row["verdict"] for row in rows}
    return 2 if UNTRUSTED in verdicts else int(MISSED in verdicts)


def _measure(name: str, tree: str, options: Options) -> Timing:
    """Times a row, anew where its control fails: chosen by the control alone, never by the row."""
    for _ in range(options.tries):
        found = timing.measure(
            name,
            tree,
            options.size,
            rounds=options.rounds,
            seconds=options.seconds,
            clock=options.clock,
        )
        if outcome.trusted(found.control):
            break
    return found


def verdict(found: Timing, options: Options) -> str:
    """Whether a row meets the target for its device, if it has one and can be trusted."""
    if not outcome.trusted(found.control):
        return UNTRUSTED
    if options.device == "gpu":
        # On small leaves the launches take the time, whatever the optimizer.
        return "" if found.tree == "many" else MET if found.roofline >= ROOFLINE else MISSED
    target = CONTENDERS[found.optimizer].time
    ours = found.wall if options.clock == "wall" else found.cpu
    return "" if target is None else MET if ours.median <= target else MISSED


def _in_a_process(function: Callable[[], T]) -> T:
    """Calls a function elsewhere: this process only waits, and takes no device for itself."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function).result()


def _table(tree: str) -> Table:
    table = Table("optimizer", "beside", title=tree, title_justify="left")
    for column in ("wall ratio", "CPU ratio", "at most", "A/A", "ms", "of copy"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict")
    return table


def _cells(found: Timing) -> tuple[str, ...]:
    target = CONTENDERS[found.optimizer].time
    return (
        found.optimizer,
        found.rival,
        str(found.wall),
        str(found.cpu),
        "" if target is None else f"{target:.2f}",
        f"{found.control.median:.3f}",
        f"{found.milliseconds:.1f}",
        f"{found.roofline:.0%}",
    )


if __name__ == "__main__":
    try:
        status = main(tyro.cli(Options, description=__doc__))
    except ValueError as error:
        sys.exit(f"{error}")
    sys.exit(status)
