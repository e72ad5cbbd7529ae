"""Table 2 of a comparison: gradient norms by layer type at the end of training."""

import math
from dataclasses import dataclass

from train.report.comparison import Comparison, Group, Run
from train.report.papers import GRADIENT_NORMS
from train.report.statistics import Estimate, estimate
from train.report.table import Cell, Column, Table, show_number, show_spread

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


def norms_table(comparison: Comparison) -> Table:
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
