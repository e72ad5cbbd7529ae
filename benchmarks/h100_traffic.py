"""What an update moves, launches and holds on an H100, counted in the program compiled for one.

    make bench-h100                  the targets, on every tree; no GPU needed
    python -m benchmarks.h100_traffic --trees stacked --only stratopt

Compiled for an H100, and not run on one: the numbers are exact and the same on every machine, so
that a regression shows as bytes and not as noise. Bytes are per parameter, beside those that a step
cannot avoid. Kernels are launches, beside those of the AdamW that does as much, clipped where the
optimizer needs a norm too. Temporaries are bytes per parameter beyond parameters and state, which
are donated. Exit status 1 says that a target is missed.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import tyro
from rich.console import Console
from rich.table import Table

import models
from benchmarks.parts import h100, hlo, outcome, trees, update
from benchmarks.parts.contenders import CONTENDERS, chosen
from train.optimizers import Aardvark, AdamW, StratOpt


@dataclass(frozen=True)
class Options:
    """All of it takes some minutes; `--trees stacked unstacked` one."""

    trees: tuple[str, ...] = trees.TREES
    """Which trees: stacked (11 leaves), unstacked (115) and many (500)."""
    only: tuple[str, ...] = ()
    """Optimizers by name; by default all."""
    output: Path | None = None
    """A file of JSON lines to add the results to."""


@dataclass(frozen=True)
class Cost:
    """One update's, with bytes per parameter."""

    moved: float
    kernels: int
    temporary: float


def main(options: Options) -> int:
    """Prints a table a tree; returns the exit status."""
    jax.config.update("jax_platforms", "cpu")
    console, rows = Console(width=110), []
    for tree in options.trees:
        costs = _Costs(tree)
        table = _table(tree)
        for name in chosen(options.only):
            missed = costs.missed(name)
            table.add_row(*costs.cells(name), f"missed: {', '.join(missed)}" if missed else "met")
            cost = dataclasses.asdict(costs[name])
            rows.append({"tree": tree, "optimizer": name, **cost, "missed": missed})
        console.print(table)
    counted = all_reduces(h100.devices(8))
    missed = ["all-reduces"] if max(counted.values()) > counted["AdamW"] else []
    listed = ", ".join(f"{name} {count}" for name, count in counted.items())
    verdict = "missed" if missed else "met"
    console.print(f"all-reduces in a whole train step on 8 H100s: {listed}: {verdict}")
    rows.append({"all_reduces": counted, "missed": missed})
    if options.output:
        device = f"{h100.devices()[0].device_kind}, compiled for"
        outcome.append(options.output, "h100_traffic", device, rows)
    return int(any(row["missed"] for row in rows))


class _Costs(dict[str, Cost]):
    """The costs of all contenders on a tree, each compiled when it is asked for."""

    def __init__(self, tree: str) -> None:
        self._stacked, self._shapes = tree == "stacked", trees.tree(tree)

    def __missing__(self, name: str) -> Cost:
        (device,), parameters = h100.devices(), trees.count(self._shapes)
        compiled = update.compiled_step(CONTENDERS[name].make(), self._shapes, device)
        found, memory = hlo.traffic(compiled), compiled.memory_analysis()
        temporary = memory.temp_size_in_bytes  # type: ignore[union-attr]
        self[name] = Cost(found.bytes / parameters, found.kernels, temporary / parameters)
        return self[name]

    def missed(self, name: str) -> list[str]:
        """What of an optimizer's cost is above its target."""
        contender, cost = CONTENDERS[name], self[name]
        limit = self._limit(name)
        above = {
            "bytes": cost.moved > contender.floor + contender.slack,
            "kernels": limit is not None and self._kernels(name) > limit,
            "temporaries": cost.temporary
            > max(contender.temporary, self[contender.peer].temporary),
        }
        return [what for what, is_above in above.items() if is_above]

    def cells(self, name: str) -> tuple[str, ...]:
        """An optimizer's row of the table."""
        cost, limit = self[name], self._limit(name)
        return (
            name,
            f"{cost.moved:.2f}",
            f"{CONTENDERS[name].floor:.0f}",
            f"{cost.kernels}",
            f"{self._kernels(name):.2f}",
            "" if limit is None else f"{limit:.1f}",
            f"{cost.temporary:.4f}",
        )

    def _kernels(self, name: str) -> float:
        return self[name].kernels / self[CONTENDERS[name].peer].kernels

    def _limit(self, name: str) -> float | None:
        return CONTENDERS[name].kernels if self._stacked else None


def all_reduces(devices: Sequence[jax.Device]) -> dict[str, int]:
    """All-reduces of a whole train step with fully sharded parameters, by optimizer."""
    model = dataclasses.replace(models.PRESETS["nano"], dtype="float32")
    counted = {}
    for optimizer in (AdamW(clip=None), Aardvark(), StratOpt()):
        program = hlo.traffic(h100.compile_step(optimizer, model, devices))
        counted[type(optimizer).__name__] = program.collectives.get("all-reduce", 0)
    return counted


def _table(tree: str) -> Table:
    shapes: Any = trees.tree(tree)
    leaves = len(jax.tree.leaves(shapes))
    title = f"{tree}: {trees.count(shapes) / 1e6:.1f}M parameters in {leaves} leaves"
    table = Table("optimizer", title=title, title_justify="left")
    for column in ("bytes", "at least", "kernels", "/ AdamW's", "at most", "temporaries"):
        table.add_column(column, justify="right")
    table.add_column("targets")
    return table


if __name__ == "__main__":
    try:
        status = main(tyro.cli(Options, description=__doc__))
    except (ValueError, RuntimeError) as error:
        sys.exit(f"{error}")
    sys.exit(status)
