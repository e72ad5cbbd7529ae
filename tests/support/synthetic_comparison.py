"""A comparison folder made of formulas: seven optimizers, their seeds, and what goes wrong."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from train.records.lines import (
    CostRecord,
    DataSummary,
    EvalRecord,
    FinalRecord,
    ModelSummary,
    Record,
    RecordWriter,
    RunRecord,
    StepRecord,
)
from train.report.table import Table

TITLES = {
    "adamw": "AdamW",
    "ademamix": "AdEMAMix",
    "lion": "Lion",
    "lamb": "LAMB",
    "adafactor": "Adafactor",
    "stratopt": "StratOpt",
    "aardvark": "Aardvark",
}
STEPS, BATCH, CONTEXT = 200, 16, 256
# What each optimizer adds to the final loss.
OFFSETS = dict(zip(TITLES, (0.0, 0.02, 0.11, 0.16, 0.06, -0.012, -0.03), strict=True))
NORMS = {"embedding": 0.21, "attention": 0.34, "mlp": 0.28, "head": 0.55, "norm": 0.03}


def run_record(optimizer: str, seed: int, **changes) -> RunRecord:
    record = RunRecord(
        name=f"{optimizer}-s{seed}",
        optimizer=optimizer,
        title=TITLES.get(optimizer, optimizer),
        seed=seed,
        config_hash="5f0c1d2e",
        commit="3c2b1a0f9e8d",
        device="AMD EPYC 9B14 (cpu)",
        device_count=1,
        versions={"python": "3.11.2", "jax": "0.10.2", "optax": "0.2.8", "flax": "0.12.8"},
        model=ModelSummary(name="4 x 128", parameters=897_152, flops_per_token=5.8e6),
        data=DataSummary(
            source="stdlib",
            tokenizer="bytes",
            fingerprint="9e107d9d372bb6826bd81d3542a419d6",
            bytes_per_token=1.0,
            train_tokens=2_050_000,
        ),
        batch_size=BATCH,
        context=CONTEXT,
        steps=STEPS,
        learning_rate=1e-3 if optimizer == "lion" else 3e-3,
        started="2026-01-01T12:00:00+00:00",
    )
    return dataclasses.replace(record, **changes)


def records(
    run: RunRecord, *, offset: float = 0.0, last: int = STEPS, diverges_at: int | None = None
) -> Iterable[Record]:
    """All records of a run: its losses fall as a power of the steps, with noise of the seed's."""
    noise = np.random.default_rng([run.seed, *run.optimizer.encode()])
    shift = 0.02 * (run.seed - 1) + noise.normal(0, 0.006)
    per_step = run.batch_size * run.context

    def loss(step: int) -> float:
        if diverges_at and step >= diverges_at:
            return math.nan if step > diverges_at + 30 else 2.0 + 0.04 * (step - diverges_at)
        return 1.55 + (offset + shift) * step / STEPS + 3.9 * (1 + step / 6) ** -0.75

    yield run
    for step in range(1, last + 1):
        if step % 20 == 0 or step == 1:
            yield EvalRecord(
                step=step,
                tokens=step * per_step,
                loss=loss(step),
                bits_per_byte=loss(step) / math.log(2),
                seconds=0.2 * step,
            )
        yield StepRecord(
            step=step,
            tokens=step * per_step,
            loss=loss(step) - 0.05 + noise.normal(0, 0.05),
            learning_rate=run.learning_rate,
            grad_norm=0.8,
            grad_norms={kind: norm + 0.01 * run.seed for kind, norm in NORMS.items()},
            seconds=0.2 * step,
        )
    if last == run.steps:
        yield final_record(run, loss(last), diverged=diverges_at is not None)


def final_record(run: RunRecord, val_loss: float, **changes) -> FinalRecord:
    record = FinalRecord(
        step=run.steps,
        tokens=run.tokens,
        train_loss=val_loss - 0.05,
        val_loss=val_loss,
        bits_per_byte=val_loss / math.log(2),
        seconds=80.0 + run.seed,
        device_seconds=80.0 + run.seed,
        peak_bytes=143_000_000,
        state_bytes_per_parameter=8.0,
        skipped=0,
        diverged=False,
    )
    return dataclasses.replace(record, **changes)


def cost_record(optimizer: str, ratio: float, state: float) -> CostRecord:
    return CostRecord(
        optimizer=optimizer,
        title=TITLES.get(optimizer, optimizer),
        step_ratio=ratio,
        ratio_low=ratio - 0.02,
        ratio_high=ratio + 0.03,
        rounds=30,
        step_seconds=0.2 * ratio,
        state_bytes_per_parameter=state,
        peak_bytes=int(1.2e8 + 9e5 * state),
    )


def write_run(folder: Path, lines: Iterable[Record]) -> Path:
    """Writes one run where a comparison has it."""
    lines = list(lines)
    path = folder / "runs" / lines[0].name / "records.jsonl"
    with RecordWriter(path) as writer:
        for line in lines:
            writer.write(line)
    return path


def write_comparison(
    folder: Path,
    *,
    optimizers: Iterable[str] = tuple(TITLES),
    seeds: int = 3,
    costs: bool = True,
    offset_of: Callable[[str], float] = OFFSETS.__getitem__,
) -> Path:
    """A comparison in which every run is finished."""
    for optimizer in optimizers:
        for seed in range(seeds):
            write_run(folder, records(run_record(optimizer, seed), offset=offset_of(optimizer)))
    if costs:
        ratios = (1.0, 1.21, 0.94, 1.08, 1.12, 1.05, 1.01)
        states = (8.0, 12.0, 4.0, 8.0, 0.6, 8.0, 8.0)
        with RecordWriter(folder / "costs.jsonl") as writer:
            for optimizer, ratio, state in zip(TITLES, ratios, states, strict=True):
                writer.write(cost_record(optimizer, ratio, state))
    return folder


def values(table: Table) -> dict[str, dict[str, Any]]:
    """By the first column's value of each row, the values of all columns by their keys."""
    first, *_ = table.columns
    return {
        first.value(row): {column.key: column.value(row) for column in table.columns}
        for row in table.rows
    }
