"""The learning rate at which each optimizer of the nano comparison is best, from one common grid.

    .venv/bin/python -m benchmarks.nano_rates        about 15 minutes on two CPU cores

Every optimizer gets the same eight rates, steps, data and seed, the papers' 3e-4 among the rates.
The seed is one that the comparison itself does not use. Results go to `results/nano_rates.jsonl`,
one line a run; `train.configs.nano_optimizers` takes its rates from there. An optimum on the edge
of the grid is marked: it says that the grid was too narrow for that method.
"""

from __future__ import annotations

import dataclasses
import math

from rich.console import Console
from rich.table import Table

from benchmarks import nano_runs
from train import configs
from train.data import open_dataset
from train.optimizer_configs import key

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
SEED = 1000
RESULTS = nano_runs.RESULTS / "nano_rates.jsonl"


def main() -> None:
    """Trains every optimizer at every rate, keeping what an earlier call has finished."""
    comparison = configs.compare()
    dataset = open_dataset(comparison.data)
    done = {(row["optimizer"], row["learning_rate"]): row for row in nano_runs.read(RESULTS)}
    for base in comparison.optimizers:
        for rate in RATES:
            if (key(base), rate) in done:
                continue
            optimizer = dataclasses.replace(base, learning_rate=rate)
            (config,) = dataclasses.replace(comparison, optimizers=(optimizer,), seeds=1).runs()
            config = dataclasses.replace(config, seed=SEED)
            done[key(base), rate] = nano_runs.run(RESULTS, config, dataset)
    _show(done)


def _show(done: dict[tuple[str, float], dict]) -> None:
    table = Table("optimizer", *(f"{rate:g}" for rate in RATES), "best")
    for name in dict.fromkeys(name for name, _ in done):
        losses = [_loss(done[name, rate]) for rate in RATES]
        best = min(range(len(RATES)), key=losses.__getitem__)
        edge = " (edge of the grid)" if best in (0, len(RATES) - 1) else ""
        table.add_row(name, *(f"{loss:.3f}" for loss in losses), f"{RATES[best]:g}{edge}")
    Console(width=110).print(table)


def _loss(row: dict) -> float:
    return math.inf if row["val_loss"] is None else row["val_loss"]


if __name__ == "__main__":
    main()
