"""How long a checkpoint holds the training up, and when it is on the disk.

    python -m benchmarks.checkpoint_stall                    134M parameters: 1.6 GB, some minutes
    python -m benchmarks.checkpoint_stall --device gpu       on a GPU, beside a step measured there
    python -m benchmarks.checkpoint_stall --folder /mnt/disk the disk that the checkpoints are for

Each round saves AdamW's state as `train` does, launches a program that overwrites the state, as the
next step does, and waits for the disk. The stall is the time until that program is launched. It is
divided by the time of a step of 65,536 tokens: on a GPU measured, else estimated for an H100 at a
stated share of its peak, or given. The total is divided by the time that one file of as many bytes
takes to write and fsync in the same round. Numbers are random: zeros would compress.

Exit status: 0 if the targets are met, 1 if one is missed, 2 if the total is not trustworthy because
the disk was not as fast as itself: a second file of the same bytes took less than 0.8 or more than
1.25 times as long as the first.
"""

import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

import models
from benchmarks.parts import outcome, saves, train_programs
from benchmarks.parts.outcome import Ratio, ratio
from train.config.run import RunConfig
from train.host import provenance
from train.inspection.plan import make_plan
from train.step.program import build_program
from train.tasks import task_of

STALL, TOTAL = 0.25, 2.0
"""Targets: of a step's time, and of the time of a raw write."""

STEADY = (0.8, 1.25)
"""Where the disk's A/A control must lie; a processor is held to more."""

STEP_TOKENS = 65_536


@dataclass(frozen=True)
class Options:
    """Defaults are for the targets."""

    device: outcome.Device = "cpu"
    model: str = "paper_wide"
    """One of `models.PRESETS`."""
    rounds: int = 7
    folder: Path | None = None
    """Where files are written and removed again; by default the system's temporary folder."""
    step_seconds: float | None = None
    """Of one train step, where it is known."""
    mfu: float = 0.3
    """The share of an H100's peak by which a step is estimated."""
    output: Path | None = None
    """A file of JSON lines to add the results to."""


@dataclass(frozen=True)
class Result:
    """Medians over the rounds; seconds."""

    model: str
    gigabytes: float
    step: float
    step_is: str
    stall: float
    stall_per_step: float
    raw: float
    total: float
    total_per_raw: Ratio
    control: Ratio
    """A second raw write to the first."""

    @property
    def verdicts(self) -> tuple[str, str]:
        """Of the stall and of the total."""
        steady = STEADY[0] <= self.control.median <= STEADY[1]
        total = outcome.judge(self.total_per_raw.median <= TOTAL, trusted=steady)
        return outcome.judge(self.stall_per_step <= STALL), total


def main(options: Options) -> int:
    """Prints a table; returns the exit status."""
    outcome.run_on(options.device)
    found = measure(options)
    stall, total = found.verdicts
    title = f"{found.model}: {found.gigabytes:.2f} GB of parameters and AdamW's state"
    table = Table("", "seconds", "beside", "ratio", "at most", "A/A", "verdict", title=title)
    step = f"a step: {found.step:.3f} s, {found.step_is}"
    ratio_of_stall = f"{found.stall_per_step:.3f}"
    table.add_row("stall", f"{found.stall:.3f}", step, ratio_of_stall, f"{STALL}", "", stall)
    raw, control = f"a raw write: {found.raw:.2f} s", f"{found.control.median:.2f}"
    numbers = raw, str(found.total_per_raw), f"{TOTAL:g}", control
    table.add_row("until on the disk", f"{found.total:.2f}", *numbers, total)
    console = Console(width=120)
    console.print(table)
    console.print(outcome.where(), highlight=False)
    if options.output is not None:
        row = asdict(found) | {"verdicts": found.verdicts}
        outcome.append(options.output, "checkpoint_stall", provenance.device(), [row])
    return outcome.exit_status((stall, total))


def measure(options: Options) -> Result:
    """Writes a raw file, a checkpoint and a raw file again, in every round.

    Raises:
      ValueError: There is no such model.
    """
    if options.model not in models.PRESETS:
        raise ValueError(f"There is no model {options.model!r}: choose from {[*models.PRESETS]}.")
    model = models.PRESETS[options.model]
    rows = max(1, STEP_TOKENS // model.context)
    config = RunConfig(model=model, context=model.context, batch_size=rows)
    step, step_is = _step_seconds(config, options)
    numbers, state = saves.random_state(config)
    rounds = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        saver = saves.Saver(Path(folder), state)
        for _ in range(options.rounds):
            first = saves.write(Path(folder), numbers)
            rounds.append((*saver.save(), first, saves.write(Path(folder), numbers)))
        saver.close()
    stalls, totals, firsts, seconds = zip(*rounds, strict=True)
    stall = float(np.median(stalls))
    return Result(
        model=options.model,
        gigabytes=sum(leaf.nbytes for leaf in numbers) / 1e9,
        step=step,
        step_is=step_is,
        stall=stall,
        stall_per_step=stall / step,
        raw=float(np.median(firsts)),
        total=float(np.median(totals)),
        total_per_raw=ratio(totals, firsts),
        control=ratio(seconds, firsts),
    )


def _step_seconds(config: RunConfig, options: Options) -> tuple[float, str]:
    """The time of one train step, and where it comes from."""
    if options.step_seconds is not None:
        return options.step_seconds, "as given"
    if options.device == "gpu":
        program = build_program(config, task_of(config))
        return train_programs.seconds(program, train_programs.random_batch(config)), "measured"
    plan = make_plan(config, "h100", utilization=options.mfu)
    seconds = config.tokens_per_step / plan.tokens_per_second
    return seconds, f"estimated for an H100 at {options.mfu:.0%} MFU"


if __name__ == "__main__":
    try:
        status = main(tyro.cli(Options, description=__doc__))
    except ValueError as error:
        sys.exit(f"{error}")
    sys.exit(status)
