"""Table 1 of a comparison: what every optimizer reached, and what its steps cost.

Table 2 of a comparison: gradient norms by layer type at the end of training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from train.host import units
from train.report.comparison import ComparedRuns, Group, Run
from train.report.papers import GRADIENT_NORMS
from train.report.statistics import PERCENT, Estimate, estimate
from train.report.table import NOTHING, Cell, Column, Table, show_interval, show_number, show_spread

_LOSSES = 6  # columns of Table 1; the others are costs
_INTERVAL = f"± is half of Student’s {PERCENT} interval over the seeds"


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One optimizer in Table 1; an estimate is over its finished runs."""

    optimizer: str
    title: str
    finished: int
    diverged: int
    val_loss: Estimate | None
    difference: Estimate | None
    train_loss: Estimate | None
    bits_per_byte: Estimate | None
    step_ratio: float | None
    step_ratio_quartiles: dict[str, float] | None
    step_ratio_rounds: int | None
    device_seconds: Estimate | None
    peak_bytes: int | None
    state_bytes_per_parameter: float | None
    learning_rates: tuple[float, ...]
    skipped: int


def results_table(comparison: ComparedRuns) -> Table:
    """Table 1: every optimizer's losses, and what its steps cost."""
    return Table(
        key="table1",
        title="Table 1. Losses and costs",
        caption=(
            f"Mean over n seeds; {_INTERVAL}. Losses in nats per token; the best validation loss "
            "first. Step times are medians with quartiles over rounds timed in turn with AdamW’s."
        ),
        columns=_RESULT_COLUMNS,
        rows=tuple(_result_row(group, comparison) for group in comparison.ended),
        parts=(
            ("Table 1a. Losses", tuple(range(_LOSSES))),
            ("Table 1b. Costs", (0, *range(_LOSSES, len(_RESULT_COLUMNS)))),
        ),
    )


def _result_row(group: Group, comparison: ComparedRuns) -> ResultRow:
    baseline = comparison.baseline
    finals = [run.final for run in group.runs if run.final]
    cost = group.cost
    timed = cost if comparison.has_step_ratios else None
    peaks = [final.peak_bytes for final in finals if final.peak_bytes is not None]
    if cost and cost.peak_bytes is not None:
        peaks = [cost.peak_bytes]
    return ResultRow(
        optimizer=group.key,
        title=group.title,
        finished=len(group.finished),
        diverged=len(group.diverged),
        val_loss=group.over_seeds(lambda final: final.val_loss),
        difference=group.loss_difference(baseline) if baseline and group != baseline else None,
        train_loss=group.over_seeds(lambda final: final.train_loss),
        bits_per_byte=group.over_seeds(lambda final: final.bits_per_byte),
        step_ratio=timed.step_ratio if timed else None,
        step_ratio_quartiles={"low": timed.ratio_low, "high": timed.ratio_high} if timed else None,
        step_ratio_rounds=timed.rounds if timed else None,
        device_seconds=group.over_seeds(lambda final: final.device_seconds),
        peak_bytes=max(peaks, default=None),
        state_bytes_per_parameter=group.state_bytes_per_parameter,
        learning_rates=tuple(sorted({run.record.learning_rate for run in group.runs})),
        skipped=sum(final.skipped for final in finals),
    )


def _show_optimizer(row: ResultRow) -> Cell:
    runs = row.finished + row.diverged
    return Cell(row.title, f"{row.diverged} of {runs} diverged" if row.diverged else "")


def _show_step_ratio(row: ResultRow) -> Cell:
    if row.step_ratio is None or row.step_ratio_quartiles is None:
        return NOTHING
    low, high = (units.number(row.step_ratio_quartiles[end], 2) for end in ("low", "high"))
    return Cell(f"{units.number(row.step_ratio, 2)}×", f"{low}–{high}")


def _show_device_time(row: ResultRow) -> Cell:
    if row.device_seconds is None:
        return NOTHING
    spread = row.device_seconds.half_width
    return Cell(
        units.duration(row.device_seconds.mean),
        "n = 1" if spread is None else f"± {units.duration(spread)}",
    )


_RESULT_COLUMNS = (
    Column("Optimizer", _show_optimizer, is_text=True),
    Column(
        "n",
        lambda row: Cell(str(row.finished)),
        "Seeds behind the row’s means: runs that finished with a finite loss. A diverged run is "
        "named under its optimizer; no mean can hold it.",
    ),
    Column(
        "Val. loss",
        lambda row: show_interval(row.val_loss, 4),
        "Cross-entropy over the validation batches, which are the same for every run, after the "
        f"last step, in nats per token. {_INTERVAL}.",
    ),
    Column(
        "Δ to AdamW",
        lambda row: show_interval(row.difference, 4, sign=True),
        "Validation loss minus AdamW’s with the same seed (same initial parameters, same data in "
        "the same order), averaged over the seeds that both have finished. Negative is better. "
        "The intervals are not corrected for the number of optimizers compared; Table 3 is.",
    ),
    Column(
        "Train loss",
        lambda row: show_interval(row.train_loss, 4),
        "Mean over the last 5 % of the steps, in nats per token.",
    ),
    Column(
        "Bits/byte",
        lambda row: show_interval(row.bits_per_byte, 4),
        "Validation loss divided by ln 2 and by the text’s bytes per token: comparable between "
        "tokenizers.",
    ),
    Column(
        "Step time",
        _show_step_ratio,
        "Time of a training step over that of AdamW, both timed in turn in one process: the "
        "median over the rounds, and the quartiles. Each is timed with a guard against non-finite "
        "steps: StratOpt’s and Aardvark’s own, and for the others a general one, which costs more.",
    ),
    Column(
        "Device time",
        _show_device_time,
        "Time of a run’s training steps times the number of devices, compilation and evaluation "
        "excluded. Other work on the machine shows in it; the step-time ratio cancels it.",
    ),
    Column(
        "Peak memory",
        lambda row: show_number(row.peak_bytes, units.size),
        "Of the training step, on one device: parameters, optimizer state, gradients and "
        "activations. 1 GB is 10⁹ bytes.",
    ),
    Column(
        "State",
        lambda row: show_number(row.state_bytes_per_parameter, lambda value: f"{value:.3g} B/p"),
        "Size of the optimizer’s state in bytes per parameter of the model.",
    ),
    Column(
        "Rate",
        lambda row: Cell(", ".join(f"{rate:.2g}" for rate in row.learning_rates)),
        "Peak learning rate.",
    ),
    Column(
        "Skipped",
        lambda row: Cell(str(row.skipped)),
        "Steps skipped because a gradient was not finite, in all runs of the row together.",
    ),
)


_LAST = 0.05  # the share of the steps, at the end, that the norms are averaged over


@dataclass(frozen=True, kw_only=True)
class NormRow:
    """One optimizer in Table 2: the norms by layer type."""

    optimizer: str
    title: str
    norms: dict[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class PrintedNormRow:
    """The norms that the Aardvark paper prints."""

    title: str
    norms: dict[str, float]


def norms_table(comparison: ComparedRuns) -> Table:
    """Table 2: mean gradient norm by layer type at the end of training, and the paper's row."""
    printed = PrintedNormRow(title="Aardvark paper", norms=GRADIENT_NORMS)
    rows = [
        NormRow(optimizer=group.key, title=group.title, norms=_norms(group))
        for group in comparison.ended
    ]
    kinds = dict.fromkeys([*GRADIENT_NORMS, *(kind for row in rows for kind in row.norms)])
    return Table(
        key="table2",
        title="Table 2. Gradient norm by layer type",
        caption=(
            "Norm of the gradient of all parameters of a type, before any clipping, averaged over "
            "the last 5 % of the steps; mean ± standard deviation over n seeds. The last row is "
            "what the Aardvark paper prints for its final step: one run, 134M parameters."
        ),
        columns=(
            Column("Optimizer", lambda row: Cell(row.title), is_text=True),
            Column("n", _show_norm_seeds),
            *(_norm_column(kind) for kind in kinds),
        ),
        rows=(*rows, printed),
        printed_rows=1,
    )


def _norms(group: Group) -> dict[str, Estimate]:
    by_run = [_last_norms(run) for run in group.finished]
    kinds = dict.fromkeys(kind for norms in by_run for kind in norms)
    return {kind: estimate([norms[kind] for norms in by_run if kind in norms]) for kind in kinds}


def _last_norms(run: Run) -> dict[str, float]:
    """A run's mean norm of each type; a skipped step, whose norm is not finite, has none."""
    norms: dict[str, list[float]] = {}
    first = (1 - _LAST) * run.record.steps
    for line in (line for line in run.steps if line.step > first):
        for kind, norm in line.grad_norms.items():
            if math.isfinite(norm):
                norms.setdefault(kind, []).append(norm)
    return {kind: math.fsum(values) / len(values) for kind, values in norms.items()}


def _show_norm_seeds(row: NormRow | PrintedNormRow) -> Cell:
    if isinstance(row, PrintedNormRow):
        return Cell("1")
    return Cell(str(max((norm.n for norm in row.norms.values()), default=0)))


def _norm_column(kind: str) -> Column:
    def show(row: NormRow | PrintedNormRow) -> Cell:
        if isinstance(row, PrintedNormRow):
            return show_number(row.norms.get(kind), "{:g}".format)
        return show_spread(row.norms.get(kind), 3)

    return Column("MLP" if kind == "mlp" else kind.capitalize(), show)
