"""What Python does before a train step runs, beside `jax.jit` over a dict for every layer.

    python -m benchmarks.dispatch                    12 layers, seconds of measuring
    python -m benchmarks.dispatch --device gpu

The model's matrices are next to nothing, its tree of parameters is that of a real model. Counted is
the time of the calling thread from the call to its return, by that thread's own clock, so that a
computation which has already begun on other threads is not counted. Ours is `Program.train_step`
with all that it does: it places the batch, and returns norms by layer type. Theirs is the jitted
step of the same model and optimizer with NumPy's arrays as the batch, and returns the loss alone.
The two run in turn; `A/A` is theirs once more in every round.

Exit status: 0 if the target is met, 1 if it is missed, 2 if a thread is not as fast as itself.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

import models
from benchmarks.parts import outcome, train_programs, unrolled
from benchmarks.parts.outcome import Ratio, ratio, trusted
from train.config.run import MeshConfig, RunConfig
from train.host import provenance
from train.optimizers import Aardvark, AdamW, OptimizerConfig, StratOpt
from train.step.program import build_program
from train.tasks import task_of

TARGET = 0.6
"""Of the time of the dicts."""

OPTIMIZERS: tuple[OptimizerConfig, ...] = (AdamW(), StratOpt(), Aardvark())


@dataclass(frozen=True)
class Options:
    """Defaults are for the target."""

    device: outcome.Device = "cpu"
    layers: int = 12
    rounds: int = 31
    steps: int = 20
    """Steps in a turn."""
    output: Path | None = None
    """A file of JSON lines to add the results to."""


@dataclass(frozen=True)
class Row:
    """One optimizer; microseconds."""

    optimizer: str
    ours: float
    dicts: float
    leaves: tuple[int, int]
    """Arrays in our state and in theirs."""
    ratio: Ratio
    control: Ratio
    verdict: str


def main(options: Options) -> int:
    """Prints a table; returns the exit status."""
    outcome.run_on(options.device)
    title = f"Python's part of a train step, {options.layers} layers"
    table = Table("optimizer", "leaves", title=title, title_justify="left")
    for column in ("us", "dicts: leaves", "us", "ratio", "at most", "A/A"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    rows = [measure(optimizer, options) for optimizer in OPTIMIZERS]
    for row in rows:
        ours, theirs = map(str, row.leaves)
        control = f"{row.control.median:.3f}"
        numbers = f"{row.dicts:.0f}", str(row.ratio), f"{TARGET}", control, row.verdict
        table.add_row(row.optimizer, ours, f"{row.ours:.0f}", theirs, *numbers)
    console = Console(width=120)
    console.print(table)
    console.print(outcome.where(), highlight=False)
    if options.output is not None:
        found = [asdict(row) for row in rows]
        outcome.append(options.output, "dispatch", provenance.device(), found)
    return outcome.exit_status(row.verdict for row in rows)


def measure(optimizer: OptimizerConfig, options: Options) -> Row:
    """Lets our step and theirs take turns."""
    model = models.TransformerConfig(
        vocab_size=32, context=8, layers=options.layers, d_model=8, heads=2, d_ff=16,
        dtype="float32",
    )  # fmt: skip
    config = RunConfig(
        model=model, optimizer=optimizer, mesh=MeshConfig(), context=8,
        batch_size=jax.device_count(),
    )  # fmt: skip
    program, batch = build_program(config, task_of(config)), train_programs.random_batch(config)
    tx = program.optimizer.transformation
    step = jax.jit(unrolled.train_step(model, tx), donate_argnums=(0, 1))
    params = jax.jit(lambda: unrolled.init(model, jax.random.key(0)))()
    ours, theirs = program.init(seed=0), (params, jax.jit(tx.init)(params))
    leaves = len(jax.tree.leaves(ours)), len(jax.tree.leaves(theirs))

    def our_turn() -> float:
        nonlocal ours
        seconds, ours = _turn(lambda state: program.train_step(state, batch)[0], ours, options)
        return seconds

    def their_turn() -> float:
        nonlocal theirs
        seconds, theirs = _turn(lambda state: step(*state, batch)[:2], theirs, options)
        return seconds

    our_turn(), their_turn()  # The first calls compile.
    turns = [(their_turn(), our_turn(), their_turn()) for _ in range(options.rounds)]
    first, own, again = np.array(turns).T
    found, control = ratio(own, first), ratio(again, first)
    return Row(
        optimizer=optimizer.key,
        ours=1e6 * float(np.median(own)),
        dicts=1e6 * float(np.median(first)),
        leaves=leaves,
        ratio=found,
        control=control,
        verdict=outcome.judge(found.median <= TARGET, trusted=trusted(control)),
    )


def _turn(step: Callable[[Any], Any], state: Any, options: Options) -> tuple[float, Any]:
    """Seconds of this thread for a step, the device being idle when one is called."""
    seconds = 0.0
    for _ in range(options.steps):
        jax.block_until_ready(state)
        start = time.thread_time()
        state = step(state)
        seconds += time.thread_time() - start
    return seconds / options.steps, state


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
