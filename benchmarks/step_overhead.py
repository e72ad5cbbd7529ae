"""What an optimizer adds to a whole train step, in time and in memory, beside AdamW.

    python -m benchmarks.step_overhead --device gpu      the targets: 134M, 65,536 tokens a step
    python -m benchmarks.step_overhead                   7M on a CPU, in float32; some minutes
    python -m benchmarks.step_overhead --only lion muon  other contestants

All programs lie in one process and run in turn; a ratio is to AdamW's time in the same round, and
`A/A` is a second AdamW. The update alone is timed too: its share of the step says how much of a
difference between optimizers can show. On a CPU a step of the same shape spends 2 % in it where an
H100 spends 1 %, though it has 2,048 tokens and not 65,536: a CPU computes less for every byte.
Memory is that of parameters and optimizer state, and the peak that the compiler plans for.

Exit status: 0 if the targets are met, 1 if one is missed, 2 if times are not trustworthy because
the second AdamW differs from the first by more than half of what an optimizer may add.
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.table import Table

import models
from benchmarks.parts import outcome, step_costs
from train.config.run import RunConfig
from train.host import provenance


@dataclass(frozen=True)
class Options:
    """What is None depends on the device."""

    device: outcome.Device = "cpu"
    model: str | None = None
    """One of `models.PRESETS`; by default paper_wide on a GPU, mini on a CPU."""
    tokens: int | None = None
    """Of a step; by default 65,536 on a GPU and 2,048 on a CPU."""
    only: tuple[str, ...] = ("stratopt", "aardvark", "stratopt, bf16")
    """Contestants by name."""
    rounds: int = 15
    """How often each has its turn."""
    steps: int | None = None
    """Steps in a turn; by default 10 on a GPU and 1 on a CPU."""
    output: Path | None = None
    """A file of JSON lines to add the results to."""


def main(options: Options) -> int:
    """Prints a table; returns the exit status."""
    outcome.run_on(options.device)
    config = run_config(options)
    steps = options.steps or (10 if options.device == "gpu" else 1)
    rows, control = step_costs.measure(config, options.only, rounds=options.rounds, steps=steps)
    size = f"{models.parameter_count(config.model).total / 1e6:.0f}M parameters"
    title = f"{size}, {config.tokens_per_step:,} tokens a step; A/A {control:.4f}"
    table = Table("optimizer", "beside AdamW", title=title, title_justify="left")
    for column in ("quartiles", "ms", "update / step", "memory / AdamW's", "peak / AdamW's"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for row in rows:
        low, median, high = row.ratio
        table.add_row(
            row.optimizer,
            f"{median:.4f}",
            f"{low:.3f} to {high:.3f}",
            f"{1e3 * row.step:.1f}",
            f"{row.share:.2%}",
            f"{row.state:.3f}",
            f"{row.peak:.3f}",
            ", ".join(f"{what}: {verdict}" for what, verdict in row.verdicts.items()),
        )
    console = Console(width=120)
    console.print(table)
    console.print(outcome.where(), highlight=False)
    if options.output is not None:
        found = [dataclasses.asdict(row) | {"control": control} for row in rows]
        outcome.append(options.output, "step_overhead", provenance.device(), found)
    return outcome.exit_status(verdict for row in rows for verdict in row.verdicts.values())


def run_config(options: Options) -> RunConfig:
    """The experiment that all optimizers share.

    Raises:
      ValueError: There is no such model.
    """
    on_gpu = options.device == "gpu"
    name = options.model or ("paper_wide" if on_gpu else "mini")
    if name not in models.PRESETS:
        raise ValueError(f"There is no model {name!r}: choose from {[*models.PRESETS]}.")
    dtype: Literal["bfloat16", "float32"] = "bfloat16" if on_gpu else "float32"
    model = dataclasses.replace(models.PRESETS[name], dtype=dtype)
    tokens = options.tokens or (65_536 if on_gpu else 2_048)
    context = min(model.context, tokens)
    return RunConfig(model=model, batch_size=tokens // context, context=context)


if __name__ == "__main__":
    try:
        status = main(tyro.cli(Options, description=__doc__))
    except ValueError as error:
        sys.exit(f"{error}")
    sys.exit(status)
