"""What it costs to share one and the same work out: among devices, and among processes.

    python -m benchmarks.scaling                         the targets, on a quiet machine
    python -m benchmarks.scaling --rows fsdp-8           one row
    python -m benchmarks.scaling --size tiny             for a look, and for tests
    python -m benchmarks.scaling --device gpu            on a node of 8 GPUs

A row trains the same batches as its rival, on more devices. On a CPU the devices are virtual and
share its cores, so nothing can become faster: what is above 1 is the cost of splitting, gathering
and waiting. Two processes meet over gloo on loopback and have one device each; their rival is one
process with two devices. All programs are built first, each in processes of its own, and step in
turn: the rival, the rival again (A/A), the row. A row shows median and quartiles of the ratios
within a round. Nothing is pinned: the rival may use the whole machine, too.

Exit status: 0 if every target is met, 1 if one is missed or the losses differ by more than 1e-4, 2
if a row is not trustworthy because the median of its A/A control lies outside 0.97 to 1.03.
"""

import contextlib
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.parts import outcome
from benchmarks.parts.shared_work import SIZES, Layout, Size, Team

TOLERANCE = 1e-4
"""How far two losses of the same step may lie apart, relative to themselves."""

OTHER_LOSSES = "other losses"

ROWS: dict[str, tuple[Layout, Layout, float | None]] = {
    **{
        f"{axis}-{count}": (Layout(axis, count), Layout("data", 1), 1.10 if count == 8 else None)
        for axis in ("fsdp", "data")
        for count in (2, 4, 8)
    },
    "processes-2": (Layout("fsdp", 2, processes=2), Layout("fsdp", 2), 1.20),
}
"""Each row's layout, its rival's, and the most that it may cost."""


@dataclass(frozen=True)
class Options:
    """Defaults are for the targets."""

    device: Literal["cpu", "gpu"] = "cpu"
    """gpu takes as many of the node's GPUs as a layout has devices; times then fall below 1."""
    size: Size = "full"
    """full: 3 million parameters, 64 sequences of 256 tokens; tiny: for tests. What splitting costs
    goes with the parameters: with fewer tokens for each it would weigh more than in real runs."""
    rows: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = tuple(ROWS)
    """Which rows."""
    rounds: int = 9
    """How often every program has its turn."""
    steps: int = 1
    """Train steps of a turn."""
    output: Path | None = None
    """A file of JSON lines to add the results to."""

    def __post_init__(self) -> None:
        """Refuses what there is not."""
        for name in self.rows:
            if name not in ROWS:
                raise ValueError(f"--rows {name}: no such row; choose from {', '.join(ROWS)}.")
        if min(self.rounds, self.steps) < 1:
            raise ValueError(f"rounds={self.rounds} and steps={self.steps} must be at least 1.")


@dataclass(frozen=True)
class Row:
    """What was measured of a layout beside its rival's."""

    row: str
    time: outcome.Ratio
    control: outcome.Ratio
    milliseconds: float
    """A step, median."""
    loss_error: float
    """The largest relative difference of a step's losses."""
    at_most: float | None

    @property
    def verdict(self) -> str:
        """Whether the target is met, if there is one and the row can be trusted."""
        if not self.loss_error <= TOLERANCE:  # NaN, too.
            return OTHER_LOSSES
        if not outcome.trusted(self.control):
            return outcome.UNTRUSTED
        if self.at_most is None:
            return ""
        return outcome.judge(self.time.median <= self.at_most)


def main(options: Options) -> int:
    """Prints a table; returns the exit status."""
    console = Console(width=100)
    table = Table("layout", "beside", title=f"the same work, {options.device}")
    for column in ("time ratio", "at most", "A/A", "ms a step", "loss error"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict")
    rows, device = [], ""
    for name in options.rows:
        console.print(f"[dim]{name} beside {ROWS[name][1]} ...[/]")
        found, device = measure(name, options)
        rows.append(found)
        table.add_row(*_cells(found), found.verdict)
    console.print(table)
    if options.output:
        lines = [dataclasses.asdict(row) | {"verdict": row.verdict} for row in rows]
        outcome.append(options.output, "scaling", device, lines)
    verdicts = {row.verdict for row in rows}
    if verdicts & {OTHER_LOSSES, outcome.MISSED}:
        return 1
    return 2 if outcome.UNTRUSTED in verdicts else 0


def measure(name: str, options: Options) -> tuple[Row, str]:
    """Steps a row, its rival and its rival again in turn; also says what they run on."""
    layout, rival, at_most = ROWS[name]
    seconds: list[list[float]] = []
    losses: list[list[float]] = []
    with contextlib.ExitStack() as stack:
        teams = [
            stack.enter_context(Team(each, SIZES[options.size], options.device))
            for each in (rival, rival, layout)
        ]
        for turn in range(options.rounds):
            # In turn forwards and backwards: a drift of the machine favours nobody.
            order = teams if turn % 2 == 0 else teams[::-1]
            found = {team: team.run(options.steps) for team in order}
            seconds.append([found[team].seconds for team in teams])
            losses.append([found[team].loss for team in teams])
        device = teams[0].device
    first, second, ours = np.transpose(seconds)
    expected, _, got = np.transpose(losses)
    row = Row(
        name,
        outcome.ratio(ours, first),
        outcome.ratio(second, first),
        float(1e3 * np.median(ours) / options.steps),
        float(np.max(np.abs(got / expected - 1))),
        at_most if options.device == "cpu" else None,
    )
    return row, device


def _cells(row: Row) -> tuple[str, ...]:
    layout, rival, _ = ROWS[row.row]
    return (
        str(layout),
        str(rival),
        str(row.time),
        "" if row.at_most is None else f"{row.at_most:.2f}",
        f"{row.control.median:.3f}",
        f"{row.milliseconds:.1f}",
        f"{row.loss_error:.0e}",
    )


if __name__ == "__main__":
    try:
        status = main(tyro.cli(Options, description=__doc__))
    except ValueError as error:
        sys.exit(f"{error}")
    sys.exit(status)
