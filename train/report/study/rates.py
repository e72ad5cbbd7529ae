"""The U of loss over rate: where its bottom lies, and how far the papers' 3e-4 is from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from train.optimizers.search_spaces import PAPERS_RATE
from train.report.comparison import Group
from train.report.statistics import Estimate
from train.report.study.parts import Sweep, rate_of
from train.report.study_conditions import is_papers_rate


@dataclass(frozen=True, kw_only=True)
class RateCurve:
    """One optimizer's sweep over rates.

    Attributes:
        rates: of the runs that ended, ascending.
        best_rate: the one with the lowest mean loss; None where all diverged.
        best: the loss there; the lowest of several means, and so a little too low.
        papers: the loss at 3e-4; None where it was not run or diverged.
        lost: the loss at 3e-4 minus that at the best rate, paired by seed.
        is_bottom_inside: whether there are rates on both sides of the best one.
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
        best=_loss(best) if best else None,
        papers=_loss(papers) if papers else None,
        lost=papers.loss_difference(best) if papers and best else None,
    )


def _loss(group: Group) -> Estimate | None:
    return group.over_seeds(lambda final: final.val_loss)


def _mean(group: Group) -> float:
    loss = _loss(group)
    return loss.mean if loss else math.inf
