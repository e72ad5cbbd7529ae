"""Our train step beside PyTorch's: the same model, parameters, batch and optimizer.

    python -m benchmarks.train_step                           1M and 7M on a CPU, in float32
    python -m benchmarks.train_step --device gpu              134M at context 4096, in bfloat16
    python -m benchmarks.train_step --device gpu --batch-sizes 4 8 16
                                                              and each at its own best batch size
    python -m benchmarks.train_step --shapes tiny --rounds 3  a try

Ours is the step that `train` runs, with its defaults. PyTorch's is eager and through
`torch.compile`, with `scaled_dot_product_attention`, fused AdamW, gradients set to None, and
autocast where the dtype is bfloat16. First all must compute the same losses. Then each runs in a
process of its own, on the CPU pinned to one core, in turn: `torch.compile`, `torch.compile` again
(A/A), eager, ours. A ratio is ours to theirs in tokens a second, median and quartiles over the
rounds.

PyTorch is no dependency: `make bench-torch` installs it beside the environment, or name the folder
where it is in PYTHONPATH. Vocabularies are multiples of 64, as PyTorch is fastest.

Exit status: 0 if every target is met, 1 if one is missed, 2 if a row is not trustworthy because the
median of its A/A control lies outside 0.97 to 1.03.
"""

import dataclasses
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

import models
from benchmarks.parts import outcome, stepping
from benchmarks.parts.outcome import Ratio
from benchmarks.parts.train_programs import Ours, Said, Theirs, run_config
from models import TransformerConfig
from train.step.accelerators import peak_flops

SHAPES: Mapping[str, TransformerConfig] = {
    "tiny": TransformerConfig(
        vocab_size=64, context=16, layers=2, d_model=16, heads=4, kv_heads=2, d_ff=48
    ),
    "1M": TransformerConfig(vocab_size=1024, context=256, layers=4, d_model=128, heads=4, d_ff=384),
    "7M": TransformerConfig(vocab_size=4096, context=256, layers=6, d_model=256, heads=8, d_ff=768),
    "134M": models.PRESETS["paper_wide"],
}

CONTESTANTS = ("torch.compile", "torch.compile again", "torch", "ours")

RATIO = {"cpu": 1.0, "gpu": 1.1}
"""Ours to `torch.compile` in tokens a second, at least."""

MFU = 0.45
"""Of ours, where the device's peak is known, at least."""

TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
"""Nats by which the losses of the first steps may differ."""


@dataclass(frozen=True)
class Options:
    """What is None depends on the device."""

    device: outcome.Device = "cpu"
    shapes: tuple[str, ...] | None = None
    """Names of models; by default 1M and 7M on a CPU, 134M on a GPU."""
    batch_sizes: tuple[int, ...] = (4,)
    """Sequences in a step; of several each contestant's best is compared too."""
    mode: str = "default"
    """Of `torch.compile`, such as max-autotune-no-cudagraphs."""
    rounds: int = 15
    """How often every program has its turn."""
    seconds: float | None = None
    """How long a turn is at least; by default 1 on a CPU and 2 on a GPU."""
    tries: int = 3
    """How often a row is timed until its control holds."""
    core: int | None = None
    """The CPU core to run on; by default the last."""
    output: Path | None = None
    """A file of JSON lines to add the results to."""


@dataclass(frozen=True)
class Row:
    """One contestant on one shape."""

    shape: str
    batch_size: int
    contestant: str
    device: str
    torch: str
    """Its version."""
    tokens_per_second: float
    mfu: float | None
    """Of the device's bfloat16 peak, where that is known."""
    ratio: Ratio
    """Our tokens a second to its."""
    control: Ratio
    verdict: str


def main(options: Options) -> int:
    """Prints a table a shape; returns the exit status.

    Raises:
      ValueError: If PyTorch is missing, a shape is unknown, or the losses differ.
    """
    on_gpu = options.device == "gpu"
    shapes = options.shapes or (("134M",) if on_gpu else ("1M", "7M"))
    for name in shapes:
        if name not in SHAPES:
            raise ValueError(f"There is no shape {name!r}: choose from {[*SHAPES]}.")
    _torch_version()
    stepping.prepare(options.device, options.core)
    console, rows = Console(width=120), []
    for shape in shapes:
        for batch_size in options.batch_sizes:
            console.print(f"[dim]{shape}, batch size {batch_size} ...[/]")
            found = _measure(shape, batch_size, options)
            console.print(_table(found))
            rows += found
        if len(options.batch_sizes) > 1:
            console.print(_best([row for row in rows if row.shape == shape]))
    if options.output:
        found = [dataclasses.asdict(row) for row in rows]
        outcome.append(options.output, "train_step", rows[0].device, found)
    return outcome.exit_status(row.verdict for row in rows if row.verdict)


def _measure(shape: str, batch_size: int, options: Options) -> list[Row]:
    """Times all contestants, anew where the control fails: chosen by the control alone."""
    on_gpu = options.device == "gpu"
    dtype = "bfloat16" if on_gpu else "float32"
    config = run_config(dataclasses.replace(SHAPES[shape], dtype=dtype), batch_size)
    compiled = Theirs(config, options.mode, "cuda" if on_gpu else "cpu")
    programs = [compiled, compiled, dataclasses.replace(compiled, mode=None), Ours(config)]
    seconds = options.seconds or (2.0 if on_gpu else 1.0)
    with stepping.steppers(programs) as running:
        said = [program.said for program in running]
        check_losses(said, TOLERANCE[dtype])
        steps = max(1, math.ceil(seconds / running[0].run(1).wall))
        for _ in range(options.tries):
            wall, _ = stepping.take_turns(running, steps, options.rounds)
            control = outcome.ratio(wall[1], wall[0])
            if outcome.trusted(control):
                break
    peak, tokens = peak_flops(said[-1].device), steps * config.tokens_per_step
    flops = models.flops_per_token(config.model, config.context)
    rows = []
    for name, seconds_taken in zip(CONTESTANTS, wall, strict=True):
        rate = tokens / float(np.median(seconds_taken))
        row = Row(
            shape=shape,
            batch_size=batch_size,
            contestant=name,
            device=said[-1].device,
            torch=_torch_version(),
            tokens_per_second=rate,
            mfu=None if peak is None else rate * flops / peak,
            ratio=outcome.ratio(seconds_taken, wall[-1]),
            control=control,
            verdict="",
        )
        rows.append(dataclasses.replace(row, verdict=verdict(row, options.device)))
    return rows


def verdict(row: Row, device: outcome.Device) -> str:
    """Whether ours meets its target beside a contestant, or in itself; empty without a target."""
    trusted = outcome.trusted(row.control)
    if row.contestant == "torch.compile":
        return outcome.judge(row.ratio.median >= RATIO[device], trusted)
    if row.contestant == "ours" and row.mfu is not None:
        return outcome.judge(row.mfu >= MFU, trusted)
    return ""


def check_losses(said: list[Said], tolerance: float) -> None:
    """Refuses programs that do not compute the same.

    Raises:
      ValueError: If losses of the same step differ by more than the tolerance, in nats.
    """
    losses = np.array([program.losses for program in said])
    difference = float(np.abs(losses - losses[0]).max())
    if not difference <= tolerance:
        raise ValueError(
            f"ours and PyTorch's do not compute the same: losses of the first steps differ by "
            f"{difference:.2g} nats, which is more than {tolerance}."
        )


def _torch_version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        raise ValueError(
            "PyTorch is not installed: `make bench-torch` installs it beside the environment, or "
            "name the folder where it is in PYTHONPATH."
        ) from None


def _table(rows: list[Row]) -> Table:
    first = rows[0]
    title = (
        f"{first.shape}, batch size {first.batch_size}; {first.device}, torch {first.torch}; "
        f"A/A {first.control.median:.3f}"
    )
    caption = f"MFU by {models.FLOPS_FORMULA} FLOPs a token"
    table = Table("contestant", title=title, caption=caption, title_justify="left")
    for column in ("tokens/s", "MFU", "ours / it"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for row in rows:
        mfu = "unknown" if row.mfu is None else f"{row.mfu:.1%}"
        table.add_row(
            row.contestant, f"{row.tokens_per_second:,.0f}", mfu, str(row.ratio), row.verdict
        )
    return table


def _best(rows: list[Row]) -> str:
    """Ours and `torch.compile`, each at the batch size where it is fastest."""
    ours, theirs = (
        max(
            (row for row in rows if row.contestant == name),
            key=lambda row: row.tokens_per_second,
        )
        for name in ("ours", "torch.compile")
    )
    rates = ", ".join(
        f"{row.contestant} {row.tokens_per_second:,.0f} tokens/s at {row.batch_size}"
        for row in (ours, theirs)
    )
    ratio = ours.tokens_per_second / theirs.tokens_per_second
    return f"{ours.shape}, each at its best batch size: {rates}; ratio {ratio:.3f}"


if __name__ == "__main__":
    try:
        status = main(tyro.cli(Options, description=__doc__))
    except (ValueError, stepping.StartError) as error:
        sys.exit(f"{error}")
    sys.exit(status)
