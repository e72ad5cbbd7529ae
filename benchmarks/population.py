"""Runs an hour of a population, as a ratio to the same runs one by one.

    python -m benchmarks.population                   the targets, on a quiet machine
    python -m benchmarks.population --clock cpu       on a busy one: the process's own time
    python -m benchmarks.population --only stratopt   another optimizer than AdamW
    python -m benchmarks.population --cpu-devices 2   members dealt out to two devices of the CPU
    python -m benchmarks.population --device gpu      on a GPU

One process holds both: the program of one run, and that of a population whose members have rates
and seeds of their own. In a round the run takes its steps, the population as many of all its
members together, and the run again as many (A/A). A row shows median and quartiles of the ratios
within a round, those of training alone. The last column counts a whole run of the nano length with
what is compiled before its first step: one by one, each rate has a program of its own.

Exit status: 0 if the largest population meets the target, 1 if it misses it, 2 if its row is not
trustworthy because the median of its A/A control lies outside 0.97 to 1.03.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.parts import outcome
from benchmarks.parts.outcome import Ratio, ratio
from benchmarks.parts.timing import Clock
from train.config import named
from train.config.run import RunConfig
from train.data import Batch
from train.host import provenance
from train.optimizers import OPTIMIZERS
from train.run.population import build_population
from train.step.program import Program, build_program
from train.tasks import task_of

TARGETS = {"cpu": 1.0, "gpu": 5.0}
"""The least ratio of runs an hour."""

CLOCKS: dict[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """The nano model of `python -m train run nano`."""

    device: Literal["cpu", "gpu"] = "cpu"
    """Where; the target depends on it."""
    sizes: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (1, 4, 8, 16)
    """Members of the populations."""
    only: str = "adamw"
    """The optimizer by name."""
    batch_size: int = 16
    """Sequences a step of a member."""
    context: int = 128
    """Tokens of a sequence."""
    side_by_side: bool | None = None
    """Whether a device computes its members at once; by default on a GPU and not on a CPU."""
    cpu_devices: int = 1
    """Devices that the CPU is split into; a run of its own then splits its batch over them."""
    rounds: int = 9
    """How often everything has its turn."""
    clock: Clock = "wall"
    """Which time counts. That of the process is the sum over its threads."""
    seconds: float = 2.0
    """How long a turn is at least."""
    output: Path | None = None
    """A file of JSON lines to add the results to."""


@dataclass(frozen=True)
class Row:
    """A population beside its members one by one."""

    members: int
    gain: Ratio
    """Runs an hour together to those one by one, training alone."""
    control: Ratio
    """The run's second turns to its first."""
    alone_milliseconds: float
    """Median of a step of one run."""
    member_milliseconds: float
    """Median of a population's step, divided by its members."""
    alone_build_seconds: float
    """What one run compiles."""
    population_build_seconds: float
    """What all members compile together."""
    whole_gain: float
    """As `gain`, of runs with what they compile."""
    verdict: str


def main(options: Options) -> int:
    """Prints a table; returns the exit status."""
    _choose_device(options)
    base, batches = _base(options), _batches(options)
    alone, seconds = _timed(lambda: _build_alone(base), options.clock)
    rows = [_measure(alone, seconds, batches, size, options) for size in sorted(options.sizes)]
    title = f"{base.optimizer.key}, batch {options.batch_size} x {options.context}"
    Console(width=110).print(_table(rows, title, TARGETS[options.device]))
    if options.output:
        fields = [dataclasses.asdict(row) for row in rows]
        about = dataclasses.asdict(options) | {"output": None}
        outcome.append(
            options.output, "population", provenance.device(), [about | row for row in fields]
        )
    return outcome.exit_status([rows[-1].verdict])


def verdict(gain: Ratio, control: Ratio, target: float) -> str:
    """Whether a population meets the target, if its row can be trusted."""
    return outcome.judge(gain.median >= target, outcome.trusted(control))


def _measure(
    alone: Program, alone_build: float, batches: list[Batch], size: int, options: Options
) -> Row:
    clock, members = options.clock, _members(alone.config, size)
    population, build = _timed(
        lambda: build_population(members, alone.task, side_by_side=options.side_by_side),
        clock,
    )
    one = _stepper(alone.init(0), lambda state, turn: alone.train_step(state, batches[turn % 2]))
    all_of_them = _stepper(
        population.init(),
        lambda state, turn: population.train_step(
            state, [batches[(turn + seed) % 2] for seed in range(size)]
        ),
    )
    one(2)
    all_of_them(2)
    steps = max(1, math.ceil(options.seconds / _timed(lambda: all_of_them(1), clock)[1]))
    turns = [lambda: one(steps * size), lambda: all_of_them(steps), lambda: one(steps * size)]
    times = [[_timed(turn, clock)[1] for turn in turns] for _ in range(options.rounds)]
    before, together, after = np.array(times).T / (steps * size)
    apart = (before + after) / 2
    gain, control = ratio(apart, together), ratio(after, before)
    step, member_step = float(np.median(apart)), float(np.median(together))
    whole_run = alone.config.steps * step + alone_build
    return Row(
        members=size,
        gain=gain,
        control=control,
        alone_milliseconds=step * 1e3,
        member_milliseconds=member_step * 1e3,
        alone_build_seconds=alone_build,
        population_build_seconds=build,
        whole_gain=whole_run / (alone.config.steps * member_step + build / size),
        verdict=verdict(gain, control, TARGETS[options.device]),
    )


def _build_alone(config: RunConfig) -> Program:
    program = build_program(config, task_of(config))
    program.init(config.seed)  # Compiled at its first call, as a population's is when it is built.
    return program


def _stepper(state: Any, step: Callable[[Any, int], tuple[Any, Any]]) -> Callable[[int], None]:
    """A function that takes so many steps."""

    def run(steps: int) -> None:
        nonlocal state
        for turn in range(steps):
            state, _ = step(state, turn)
        jax.block_until_ready(state)

    return run


def _timed(work: Callable[[], T], clock: Clock) -> tuple[T, float]:
    """What the work gives, and the seconds that it took."""
    now = CLOCKS[clock]
    start = now()
    result = work()
    return result, now() - start


def _choose_device(options: Options) -> None:
    jax.config.update("jax_platforms", {"cpu": "cpu", "gpu": "cuda"}[options.device])
    if options.device == "cpu":
        jax.config.update("jax_num_cpu_devices", options.cpu_devices)


def _base(options: Options) -> RunConfig:
    known = {kind.nano().key: kind.nano() for kind in OPTIMIZERS}
    if options.only not in known:
        raise ValueError(f"There is no {options.only!r}: choose among {', '.join(known)}.")
    return dataclasses.replace(
        named.nano(),
        optimizer=known[options.only],
        batch_size=options.batch_size,
        context=options.context,
    )


def _members(base: RunConfig, size: int) -> list[RunConfig]:
    """Runs with rates from a tenth of the base's up to it, each with a seed of its own."""
    rates = np.geomspace(base.optimizer.learning_rate, base.optimizer.learning_rate / 10, size)
    return [
        dataclasses.replace(
            base,
            optimizer=dataclasses.replace(base.optimizer, learning_rate=float(rate)),
            seed=seed,
        )
        for seed, rate in enumerate(rates)
    ]


def _batches(options: Options) -> list[Batch]:
    """Two batches of random tokens, to be read in turn."""
    rng = np.random.default_rng(0)
    shape = (options.batch_size, options.context + 1)
    tokens = [rng.integers(named.NANO.vocab_size, size=shape, dtype=np.int32) for _ in range(2)]
    weights = np.ones((options.batch_size, options.context), np.float32)
    return [Batch(block[:, :-1], block[:, 1:], weights) for block in tokens]


def _table(rows: list[Row], title: str, target: float) -> Table:
    table = Table("members", title=title, title_justify="left")
    for column in ("ms alone", "ms a member", "runs an hour", "A/A", "with compiling"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column(f"at least {target:.1f}")
    for row in rows:
        table.add_row(
            str(row.members),
            f"{row.alone_milliseconds:.2f}",
            f"{row.member_milliseconds:.2f}",
            f"{row.gain}",
            f"{row.control.median:.3f}",
            f"{row.whole_gain:.2f}",
            row.verdict,
        )
    return table


if __name__ == "__main__":
    try:
        status = main(tyro.cli(Options, description=__doc__))
    except ValueError as error:
        sys.exit(f"{error}")
    sys.exit(status)
