r"""What an optimizer is worth in data: how many more tokens AdamW needs for the same loss.

An optimizer with the loss :math:`\ell` is worth :math:`D' / D`, where :math:`L(D') = \ell` and
:math:`L(D)` is AdamW's loss after as many tokens. Both are read off the curve through AdamW's mean
final losses, so that what the curve misses AdamW by at this budget cancels. Every budget is a whole
training of its own, with a schedule that ends there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from train.report.comparison import Comparison, Group
from train.report.statistics import Estimate, estimate
from train.report.study_loss_curve import FEWEST_BUDGETS, LossCurve, fit_curve
from train.report.study_resampling import Floats, resamples


@dataclass(frozen=True, kw_only=True)
class SpeedUp:
    """One optimizer at one budget.

    Attributes:
        tokens: the budget.
        seeds: how many AdamW has too, at every budget.
        diverged: runs that no number here holds.
        loss: over those seeds.
        factor: D' / D; infinite where the loss lies below the floor of AdamW's curve.
        low: lower end of the bootstrap's 95 % interval; None for one seed.
        high: its upper end; may be infinite.
        is_extrapolated: whether D' lies beyond twice the largest budget or below half the smallest.
    """

    tokens: int
    seeds: int
    diverged: int
    loss: Estimate
    factor: float
    low: float | None
    high: float | None
    is_extrapolated: bool


@dataclass(frozen=True)
class Scaling:
    """AdamW's curve over token budgets, and what the optimizers are worth by it.

    Attributes:
        seeds: those that AdamW finished at every budget.
        losses: AdamW's means over them, by budget.
        curve: through these.
        intervals: of the curve's floor and exponent, by the coefficient's name; empty for one
            seed.
        speed_ups: by optimizer and budget.
    """

    seeds: tuple[int, ...]
    losses: dict[int, float]
    curve: LossCurve
    intervals: dict[str, tuple[float, float]]
    speed_ups: dict[str, dict[int, SpeedUp]]

    @property
    def residuals(self) -> list[float]:
        """Mean loss minus curve at each budget, in nats per token."""
        return [loss - float(self.curve.loss(tokens)) for tokens, loss in self.losses.items()]

    @property
    def misfits(self) -> list[float]:
        """What the residuals are worth: tokens that the curve takes to AdamW's losses, over its."""
        return [float(self.curve.tokens(loss)) / tokens for tokens, loss in self.losses.items()]


def data_speed_ups(budgets: Mapping[int, Comparison]) -> Scaling | None:
    """Fits AdamW's curve, and reads every optimizer off it.

    The interval is a bootstrap over seeds in pairs: AdamW and the optimizer get the same seeds in
    every resample, and the curve is fitted anew.

    Args:
        budgets: comparisons that differ in nothing else, by their runs' tokens.

    Returns:
        None where AdamW has no seed that it finished at every one of three budgets.
    """
    tokens = sorted(size for size, comparison in budgets.items() if comparison.baseline)
    found = [budgets[size].baseline for size in tokens]
    finished = [group.losses for group in found if group]
    shared = set.intersection(*map(set, finished)) if finished else set()
    if len(tokens) < FEWEST_BUDGETS or not shared:
        return None

    @functools.cache
    def fitted(seeds: tuple[int, ...]) -> tuple[LossCurve, LossCurve]:
        """AdamW's curve over these seeds, and those of all their resamples."""
        losses = np.array([[loss[seed] for seed in seeds] for loss in finished])
        again = resamples(len(seeds)).means(losses)
        return fit_curve(tokens, losses.mean(-1)), fit_curve(tokens, again.T)

    def worth(group: Group, budget: int) -> SpeedUp | None:
        seeds = tuple(sorted(shared & group.losses.keys()))
        if not seeds:
            return None
        losses = np.array([group.losses[seed] for seed in seeds])
        adamw = np.array([finished[tokens.index(budget)][seed] for seed in seeds])
        drawn = resamples(len(seeds))
        curve, curves = fitted(seeds)
        alike = float(curve.tokens(losses.mean()))
        # Of D / D', which is finite, and 0 where the curve never gets there.
        share = float(_reached(curve, adamw.mean(), budget)) / alike
        shares = _reached(curves, drawn.means(adamw), budget) / curves.tokens(drawn.means(losses))
        ends = drawn.interval(share, shares, within=(0.0, math.inf))
        low, high = (1 / end if end else math.inf for end in ends[::-1]) if ends else (None, None)
        return SpeedUp(
            tokens=budget,
            seeds=len(seeds),
            diverged=len(group.diverged),
            loss=estimate(losses.tolist()),
            factor=1 / share if share else math.inf,
            low=low,
            high=high,
            is_extrapolated=not tokens[0] / 2 <= alike <= 2 * tokens[-1],
        )

    speed_ups: dict[str, dict[int, SpeedUp]] = {}
    for budget in tokens:
        for group in budgets[budget].groups:
            if speed_up := worth(group, budget):
                speed_ups.setdefault(group.key, {})[budget] = speed_up
    seeds = tuple(sorted(shared))
    curve, curves = fitted(seeds)
    drawn = resamples(len(seeds))
    ends = {
        name: drawn.interval(float(getattr(curve, name)), getattr(curves, name), (0.0, math.inf))
        for name in ("floor", "exponent")
    }
    return Scaling(
        seeds=seeds,
        losses={
            size: math.fsum(loss[seed] for seed in seeds) / len(seeds)
            for size, loss in zip(tokens, finished, strict=True)
        },
        curve=curve,
        intervals={name: end for name, end in ends.items() if end},
        speed_ups=speed_ups,
    )


def _reached(curve: LossCurve, loss: ArrayLike, tokens: int) -> Floats:
    """The tokens at which the curve has AdamW's loss; its own where that lies below the floor."""
    found = curve.tokens(loss)
    return np.where(np.isfinite(found), found, tokens)
