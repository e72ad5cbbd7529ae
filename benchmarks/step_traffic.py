"""What a whole train step moves, launches and holds on an H100, compiled for one and not run.

    make bench-h100-step                                     the papers' 134M model at context 4096
    python -m benchmarks.step_traffic --only shipped stratopt --devices 8

The counts are exact and the same on every machine. The times are estimates from them: everything
that is moved at 3.0 TB/s after everything that is computed at 700 TFLOP/s, or, at best, with what
matrix products and attention move hidden behind their arithmetic. The model FLOPs utilization is
that of the exact causal formula. Exit status 1 says that a target is missed: an optimizer moves
more than AdamW's step by half a percent, logits of a whole batch exist, or on several GPUs a state
is not shared out or StratOpt adds more than one all-reduce.
"""

import dataclasses
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import tyro
from rich.console import Console
from rich.table import Table

import models
from benchmarks.parts import h100, hlo, outcome
from train.config.run import MeshConfig, RunConfig
from train.data import DataConfig
from train.optimizers import Aardvark, AdamW, OptimizerConfig, StratOpt
from train.step.accelerators import ACCELERATORS
from train.step.program import compile_ahead
from train.step.sharding import make_mesh
from train.tasks import task_of
from train.tasks.loss import WHOLE_BYTES

BANDWIDTH = 3.0e12
"""Bytes a second that a copy reaches on an H100."""
SPEED = 700e12
"""Floating-point operations a second that large bfloat16 products reach there."""
MOST_BYTES = 1.005
"""The largest ratio of an optimizer's whole step to AdamW's."""
MOST_ARGUMENTS = 1.05
"""State and batch of a device over an even share: norms are whole everywhere, and no matrix is."""


@dataclass(frozen=True)
class Variant:
    """A way of computing the step, as changes to the shipped one."""

    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=lambda: AdamW(clip=None))
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict)


SHIPPED, STRATOPT = "shipped", "stratopt"

VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        SHIPPED: Variant(),
        "clipped": Variant(optimizer=AdamW()),
        "aardvark": Variant(optimizer=Aardvark()),
        STRATOPT: Variant(optimizer=StratOpt()),
        "dots": Variant(model={"remat": "dots"}),
        "full": Variant(model={"remat": "full"}),
        "scanned": Variant(model={"scan_unroll": 1}),
        "scanned, full": Variant(model={"scan_unroll": 1, "remat": "full"}),
        "chunks of 2048": Variant(run={"loss_chunk": 2048}),
        "chunks of 32768": Variant(run={"loss_chunk": 32_768}),
        "documents": Variant(run={"data": DataConfig(packing="documents")}),
        "accumulate": Variant(run={"accumulate": 2}),
        "xla attention": Variant(model={"attention": "xla"}),
    }
)
"""The first computes as the configurations do, on a GPU, with the optimizer of least work."""


@dataclass(frozen=True)
class Options:
    """All of it takes some ten minutes; `--only shipped stratopt` one."""

    only: tuple[str, ...] = ()
    """Variants by name; by default all."""
    preset: str = "paper_wide"
    """The model."""
    rows: int = 16
    """Sequences of a device."""
    context: int = 4096
    """Tokens of a sequence."""
    devices: int = 1
    """H100s of one node that share parameters and state."""
    output: Path | None = None
    """A file of JSON lines to add the results to."""


@dataclass(frozen=True)
class Cost:
    """One device's share of a step."""

    gigabytes: float
    """Read and written."""
    kernels: int
    temporary: float
    """Gigabytes held besides state and batch."""
    arguments: float
    """Gigabytes of state and batch, as a multiple of an even share."""
    logits: float
    """Gigabytes of the largest array along the vocabulary that is written."""
    collectives: Mapping[str, int]
    milliseconds: tuple[float, float]
    """At best and at worst: an estimate."""
    utilization: tuple[float, float]
    """At worst and at best, exact causal formula."""


def main(options: Options) -> int:
    """Prints a table; returns the exit status."""
    jax.config.update("jax_platforms", "cpu")
    console, rows = Console(width=120), []
    costs = {name: cost(options, VARIANTS[name]) for name in _chosen(options.only)}
    table = _table(options)
    for name, found in costs.items():
        missed = verdict(options, name, costs)
        table.add_row(*_cells(name, found, costs), ", ".join(missed) or "met")
        rows.append({"variant": name, **dataclasses.asdict(found), "missed": missed})
    console.print(table)
    console.print(f"FLOPs a token: {models.FLOPS_FORMULA}; milliseconds and MFU are estimates")
    if options.output:
        device = f"{options.devices} x {h100.devices()[0].device_kind}, compiled for"
        outcome.append(options.output, "step_traffic", device, [_settings(options), *rows])
    return int(any(row["missed"] for row in rows))


def cost(options: Options, variant: Variant) -> Cost:
    """Compiles a variant and counts."""
    model = dataclasses.replace(
        models.PRESETS[options.preset], **{"attention": "cudnn", **variant.model}
    )
    config = RunConfig(
        model=model,
        optimizer=variant.optimizer,
        mesh=MeshConfig(data=1, fsdp=options.devices),
        batch_size=options.rows * options.devices,
        context=options.context,
        **variant.run,
    )
    mesh = make_mesh(config.mesh, h100.devices(options.devices))
    compiled = compile_ahead(config, task_of(config), mesh)
    text, memory = compiled.as_text(), compiled.memory_analysis()
    assert text is not None
    assert memory is not None
    found = hlo.text_traffic(text)
    tokens = options.rows * options.context
    flops = models.flops_per_token(model, options.context) * tokens
    computing = flops / SPEED
    seconds = (
        computing + (found.bytes - found.in_products) / BANDWIDTH,
        computing + found.bytes / BANDWIDTH,
    )
    peak = ACCELERATORS["h100"].peak_flops
    state = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(compiled.in_avals))
    return Cost(
        gigabytes=found.bytes / 1e9,
        kernels=found.kernels,
        temporary=memory.temp_size_in_bytes / 1e9,
        arguments=memory.argument_size_in_bytes * options.devices / state,
        logits=hlo.largest_along(model.vocab_size, text) / 1e9,
        collectives=dict(found.collectives),
        milliseconds=(1e3 * seconds[0], 1e3 * seconds[1]),
        utilization=(flops / seconds[1] / peak, flops / seconds[0] / peak),
    )


def verdict(options: Options, name: str, costs: Mapping[str, Cost]) -> list[str]:
    """What of a variant is above its target."""
    found, base = costs[name], costs.get(SHIPPED)
    vocab = models.PRESETS[options.preset].vocab_size
    logits = 4 * options.rows * options.context * vocab
    is_optimizer = base is not None and VARIANTS[name].optimizer != AdamW(clip=None)
    missed = {
        "logits": WHOLE_BYTES < logits <= 1e9 * found.logits,
        "replicated": found.arguments > MOST_ARGUMENTS,
        "bytes": is_optimizer and found.gigabytes > MOST_BYTES * base.gigabytes,
        "all-reduces": is_optimizer
        and found.collectives.get("all-reduce", 0) > base.collectives.get("all-reduce", 0) + 1,
    }
    return [what for what, is_missed in missed.items() if is_missed]


def _chosen(only: tuple[str, ...]) -> tuple[str, ...]:
    for name in only:
        if name not in VARIANTS:
            raise ValueError(f"There is no variant {name!r}: choose from {list(VARIANTS)}.")
    return only or tuple(VARIANTS)


def _cells(name: str, found: Cost, costs: Mapping[str, Cost]) -> tuple[str, ...]:
    first = next(iter(costs.values()))
    return (
        name,
        f"{found.gigabytes:.1f}",
        f"{found.gigabytes / first.gigabytes:.3f}",
        f"{found.kernels}",
        f"{found.temporary:.2f}",
        " to ".join(f"{ms:.0f}" for ms in found.milliseconds),
        " to ".join(f"{100 * part:.0f}" for part in found.utilization),
        " ".join(f"{kind} {count}" for kind, count in sorted(found.collectives.items())),
    )


def _settings(options: Options) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("preset", "rows", "context", "devices")}


def _table(options: Options) -> Table:
    title = (
        f"{options.preset} on {options.devices} H100: "
        f"{options.rows} x {options.context} tokens a device"
    )
    table = Table("variant", title=title, title_justify="left")
    for column in ("GB", "ratio", "kernels", "temp GB", "ms", "MFU %"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("collectives")
    table.add_column("targets")
    return table


if __name__ == "__main__":
    try:
        status = main(tyro.cli(Options, description=__doc__))
    except (ValueError, RuntimeError) as error:
        sys.exit(f"{error}")
    sys.exit(status)
