"""Tables 1 and 2 of a comparison: losses and costs, and gradient norms by layer type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter

from train.host import units
from train.records.kinds import Ratio
from train.report.comparison import ComparedRuns, Group, Run
from train.report.papers import GRADIENT_NORMS
from train.report.statistics import PERCENT, Estimate, estimate
from train.report.table import (
    NOTHING,
    Cell,
    Column,
    Table,
    show_interval,
    show_number,
    show_ratio,
    show_spread,
)

_LOSSES = 6  # columns of Table 1; the others are costs
_INTERVAL = f"± is half of Student’s {PERCENT} interval over the seeds"


def results_table(comparison: ComparedRuns) -> Table:
    """Table 1: every optimizer's losses, and what its steps cost."""
    columns = _result_columns(comparison)
    return Table(
        key="table1",
        title="Table 1. Losses and costs",
        caption=(
            f"Mean over n seeds; {_INTERVAL}. Losses in nats per token; the best validation loss "
            "first. Step times are medians with quartiles over rounds timed in turn with AdamW’s."
        ),
        columns=columns,
        rows=comparison.ended,
        parts=(
            ("Table 1a. Losses", tuple(range(_LOSSES))),
            ("Table 1b. Costs", (0, *range(_LOSSES, len(columns)))),
        ),
    )


def _result_columns(comparison: ComparedRuns) -> tuple[Column, ...]:
    baseline = comparison.baseline

    def difference(group: Group) -> Estimate | None:
        return group.loss_difference(baseline) if baseline and group != baseline else None

    def step_time(group: Group) -> Ratio | None:
        cost = group.cost
        if cost is None or not comparison.has_step_ratios:
            return None
        return Ratio(low=cost.ratio_low, median=cost.step_ratio, high=cost.ratio_high)

    return (
        Column(
            "Optimizer", lambda group: group.title, is_text=True, detail=attrgetter("divergence")
        ),
        Column(
            "n",
            lambda group: len(group.finished),
            how="Seeds behind the row’s means: runs that finished with a finite loss. A diverged "
            "run is named under its optimizer; no mean can hold it.",
        ),
        Column(
            "Val. loss",
            lambda group: group.val_loss,
            lambda loss: show_interval(loss, 4),
            "Cross-entropy over the validation batches, which are the same for every run, after "
            f"the last step, in nats per token. {_INTERVAL}.",
        ),
        Column(
            "Δ to AdamW",
            difference,
            lambda loss: show_interval(loss, 4, sign=True),
            "Validation loss minus AdamW’s with the same seed (same initial parameters, same data "
            "in the same order), averaged over the seeds that both have finished. Negative is "
            "better. The intervals are not corrected for the number of optimizers compared; Table "
            "3 is.",
        ),
        Column(
            "Train loss",
            lambda group: group.over_seeds(lambda final: final.train_loss),
            lambda loss: show_interval(loss, 4),
            "Mean over the last 5 % of the steps, in nats per token.",
        ),
        Column(
            "Bits/byte",
            lambda group: group.over_seeds(lambda final: final.bits_per_byte),
            lambda loss: show_interval(loss, 4),
            "Validation loss divided by ln 2 and by the text’s bytes per token: comparable between "
            "tokenizers.",
        ),
        Column(
            "Step time",
            step_time,
            show_ratio,
            "Time of a training step over that of AdamW, both timed in turn in one process: the "
            "median over the rounds, and the quartiles. Each is timed with a guard against "
            "non-finite steps: StratOpt’s and Aardvark’s own, and for the others a general one, "
            "which costs more.",
        ),
        Column(
            "Device time",
            lambda group: group.over_seeds(lambda final: final.device_seconds),
            _show_duration,
            "Time of a run’s training steps times the number of devices, compilation and "
            "evaluation excluded. Other work on the machine shows in it; the step-time ratio "
            "cancels it.",
        ),
        Column(
            "Peak memory",
            _peak_bytes,
            lambda size: show_number(size, units.size),
            "Of the training step, on one device: parameters, optimizer state, gradients and "
            "activations. 1 GB is 10⁹ bytes.",
        ),
        Column(
            "State",
            lambda group: group.state_bytes_per_parameter,
            lambda size: show_number(size, "{:.3g} B/p".format),
            "Size of the optimizer’s state in bytes per parameter of the model.",
        ),
        Column(
            "Rate",
            lambda group: sorted({run.record.learning_rate for run in group.runs}),
            lambda rates: Cell(", ".join(f"{rate:.2g}" for rate in rates)),
            "Peak learning rate.",
        ),
        Column(
            "Skipped",
            lambda group: sum(run.final.skipped for run in group.runs if run.final),
            how="Steps skipped because a gradient was not finite, in all runs of the row together.",
        ),
    )


def _peak_bytes(group: Group) -> int | None:
    if group.cost and group.cost.peak_bytes is not None:
        return group.cost.peak_bytes
    finals = [run.final for run in group.runs if run.final]
    return max((f.peak_bytes for f in finals if f.peak_bytes is not None), default=None)


def _show_duration(seconds: Estimate | None) -> Cell:
    if seconds is None:
        return NOTHING
    spread = seconds.half_width
    detail = "n = 1" if spread is None else f"± {units.duration(spread)}"
    return Cell(units.duration(seconds.mean), detail)


_LAST = 0.05  # the share of the steps, at the end, that the norms are averaged over


@dataclass(frozen=True)
class Norms:
    """A row of Table 2: norms by layer type, of an optimizer's runs or as a paper prints them."""

    title: str
    n: int
    by_type: Mapping[str, Estimate | float]


def norms_table(comparison: ComparedRuns) -> Table:
    """Table 2: mean gradient norm by layer type at the end of training, and the paper's row."""
    rows = [_norms(group) for group in comparison.ended]
    kinds = dict.fromkeys([*GRADIENT_NORMS, *(kind for row in rows for kind in row.by_type)])
    return Table(
        key="table2",
        title="Table 2. Gradient norm by layer type",
        caption=(
            "Norm of the gradient of all parameters of a type, before any clipping, averaged over "
            "the last 5 % of the steps; mean ± standard deviation over n seeds. The last row is "
            "what the Aardvark paper prints for its final step: one run, 134M parameters."
        ),
        columns=(
            Column("Optimizer", lambda row: row.title, is_text=True),
            Column("n", lambda row: row.n),
            *map(_norm_column, kinds),
        ),
        rows=(*rows, Norms("Aardvark paper", 1, GRADIENT_NORMS)),
        printed_rows=1,
    )


def _norms(group: Group) -> Norms:
    by_run = [_last_norms(run) for run in group.finished]
    kinds = dict.fromkeys(kind for norms in by_run for kind in norms)
    means = {kind: estimate([norms[kind] for norms in by_run if kind in norms]) for kind in kinds}
    return Norms(group.title, max((mean.n for mean in means.values()), default=0), means)


def _last_norms(run: Run) -> dict[str, float]:
    """A run's mean norm of each type; a skipped step, whose norm is not finite, has none."""
    norms: dict[str, list[float]] = {}
    first = (1 - _LAST) * run.record.steps
    for line in (line for line in run.steps if line.step > first):
        for kind, norm in line.grad_norms.items():
            if math.isfinite(norm):
                norms.setdefault(kind, []).append(norm)
    return {kind: math.fsum(values) / len(values) for kind, values in norms.items()}


def _norm_column(kind: str) -> Column:
    title = "MLP" if kind == "mlp" else kind.capitalize()
    return Column(title, lambda row: row.by_type.get(kind), _show_norm)


def _show_norm(norm: Estimate | float | None) -> Cell:
    return show_number(norm, "{:g}".format) if isinstance(norm, float) else show_spread(norm, 3)
