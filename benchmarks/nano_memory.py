"""What states of fewer bytes cost in loss: each option against the same optimizer in float32.

    .venv/bin/python -m benchmarks.nano_memory        about 15 minutes on two CPU cores

Five seeds, 0.13M parameters, the embedded text, at b2 = 0.999, the hardest case for a second moment
in bfloat16. Differences are paired by seed. Results go to `results/nano_memory.jsonl`.
"""

from __future__ import annotations

import dataclasses

from rich.console import Console
from rich.table import Table

from benchmarks import nano_runs
from train import configs
from train.data import open_dataset
from train.optimizer_configs import Aardvark, StratOpt, key
from train.report.statistics import estimate, paired_difference

RESULTS = nano_runs.RESULTS / "nano_memory.jsonl"
OPTIONS: dict[str, dict] = {
    "float32": {},
    "mu in bfloat16": {"mu_dtype": "bfloat16"},
    "both in bfloat16": {"mu_dtype": "bfloat16", "nu_dtype": "bfloat16"},
    "mu in bfloat16, nu factored": {"mu_dtype": "bfloat16", "factored": True},
}
OPTIMIZERS = (StratOpt(learning_rate=1e-3), Aardvark(learning_rate=1e-3))


def main() -> None:
    """Trains what an earlier call has not, and prints the differences."""
    comparison = configs.compare()
    dataset = open_dataset(comparison.data)
    rows = nano_runs.read(RESULTS)
    losses = {(row["optimizer"], row["options"], row["seed"]): row["val_loss"] for row in rows}
    for base in OPTIMIZERS:
        for name, options in OPTIONS.items():
            optimizer = dataclasses.replace(base, **options)
            for config in dataclasses.replace(comparison, optimizers=(optimizer,)).runs():
                run = key(base), name, config.seed
                if run not in losses:
                    row = nano_runs.run(RESULTS, config, dataset, options=name)
                    losses[run] = row["val_loss"]
    _show(losses)


def _show(losses: dict[tuple[str, str, int], float]) -> None:
    def by_seed(optimizer: str, options: str) -> dict[int, float]:
        return {
            s: loss for (o, name, s), loss in losses.items() if (o, name) == (optimizer, options)
        }

    table = Table("optimizer", "state", "validation loss", "against float32", "n")
    for base in OPTIMIZERS:
        reference = by_seed(key(base), "float32")
        for name in OPTIONS:
            values = by_seed(key(base), name)
            mean, difference = estimate([*values.values()]), paired_difference(values, reference)
            against = (
                f"{difference.mean:+.4f} ± {difference.half_width:.4f}" if name != "float32" else ""
            )
            table.add_row(
                key(base), name, f"{mean.mean:.4f} ± {mean.half_width:.4f}", against, str(mean.n)
            )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
