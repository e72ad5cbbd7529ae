"""The U of loss over rate: where its bottom lies, and what the papers' 3e-4 costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from train.host import units
from train.report.comparison import Group, diverged
from train.report.papers import PAPERS_RATE
from train.report.statistics import PERCENT, Estimate
from train.report.study.parts import Sweep, is_papers_rate, rate_of
from train.report.table import NOTHING, Cell, Column, Table, show_interval


@dataclass(frozen=True, kw_only=True)
class RateCurve:
    """One optimizer's sweep over rates.

    Attributes:
      rates: Of the runs that ended, ascending.
      best_rate: The one with the lowest mean loss; None where all diverged.
      best: The loss there; the lowest of several means, and so a little too low.
      papers: The loss at 3e-4; None where it was not run or diverged.
      lost: The loss at 3e-4 minus that at the best rate, paired by seed.
      is_bottom_inside: Whether there are rates on both sides of the best one.
    """

    sweep: Sweep
    rates: tuple[float, ...]
    best_rate: float | None
    best: Estimate | None
    papers: Estimate | None
    lost: Estimate | None

    @property
    def is_bottom_inside(self) -> bool:
        """Whether the best rate is neither the lowest nor the highest that was tried."""
        return self.best_rate is not None and self.rates[0] < self.best_rate < self.rates[-1]

    @property
    def factor(self) -> float | None:
        """The best rate over 3e-4."""
        return None if self.best_rate is None else self.best_rate / PAPERS_RATE


def rate_curve(sweep: Sweep) -> RateCurve | None:
    """Where a sweep has its bottom; None where no run has ended yet.

    A rate at which a run diverged cannot be the best.
    """
    ended = [group for group in sweep.groups if group.finished or group.diverged]
    if not ended:
        return None
    usable = [group for group in ended if not group.diverged]
    best = min(usable, key=_mean, default=None)
    papers = next((group for group in usable if is_papers_rate(rate_of(group))), None)
    return RateCurve(
        sweep=sweep,
        rates=tuple(map(rate_of, ended)),
        best_rate=rate_of(best) if best else None,
        best=best.val_loss if best else None,
        papers=papers.val_loss if papers else None,
        lost=papers.loss_difference(best) if papers and best else None,
    )


def _mean(group: Group) -> float:
    loss = group.val_loss
    return loss.mean if loss else math.inf


def rates_table(key: str, curves: Sequence[RateCurve]) -> Table:
    """How far 3e-4 is from each optimizer's best rate; what it costs most first."""
    conditions = [
        f"{curve.sweep.conditions.place}, {units.count(curve.sweep.conditions.tokens)} tokens"
        for curve in curves
    ]
    return Table(
        key=f"table_{key}",
        title="How far 3e-4 is from the best rate",
        caption=(
            f"{'; '.join(dict.fromkeys(conditions))}. Final validation loss in "
            f"nats per token, mean over n seeds with {PERCENT} intervals. The best rate is one of "
            "the grid’s, good to its step; the loss there is the lowest of several and a little "
            "too low. Of every optimizer the bottom has to lie inside the grid, or its best is not "
            "known."
        ),
        columns=(
            Column("Optimizer", lambda curve: curve.sweep.title, is_text=True, detail=_diverged),
            Column("Rates", lambda curve: curve.rates, _show_rates),
            Column("n", lambda curve: curve.best.n if curve.best else None),
            Column("Best rate", lambda curve: curve.best_rate, _show_best_rate),
            Column("Loss there", lambda curve: curve.best, lambda loss: show_interval(loss, 3)),
            Column("At 3e-4", lambda curve: curve.papers, lambda loss: show_interval(loss, 3)),
            Column(
                "Lost at 3e-4",
                lambda curve: curve.lost,
                lambda loss: show_interval(loss, 3, sign=True),
            ),
            Column(
                "Inside",
                lambda curve: curve.is_bottom_inside,
                lambda inside: Cell("yes") if inside else Cell("NO", is_strong=True),
                "Whether the bottom of the U lies inside the grid.",
            ),
        ),
        rows=tuple(sorted(curves, key=lambda curve: -curve.lost.mean if curve.lost else 0.0)),
    )


def _diverged(curve: RateCurve) -> str:
    return diverged(sum(len(group.diverged) for group in curve.sweep.groups))


def _show_rates(rates: Sequence[float]) -> Cell:
    return Cell(str(len(rates)), f"{rates[0]:.1g}–{rates[-1]:.1g}")


def _show_best_rate(rate: float | None) -> Cell:
    if rate is None:
        return NOTHING
    factor = rate / PAPERS_RATE
    away = f"{factor:.3g}" if factor >= 1 else f"1/{1 / factor:.3g}"
    return Cell(f"{rate:.2g}", f"{away} × 3e-4")
