r"""What an optimizer is worth in data: how many more tokens AdamW needs for the same loss.

An optimizer with the loss :math:`\ell` is worth :math:`D' / D`, where :math:`L(D') = \ell` and
:math:`L(D)` is AdamW's loss after as many tokens. Both are read off the curve through AdamW's mean
final losses, so that what the curve misses AdamW by at this budget cancels. Every budget is a whole
training of its own, with a schedule that ends there.

A curve of loss over tokens, fitted to a few budgets.

.. math:: L(D) = E + B D^{-\beta}, \qquad E \ge 0

References:
  Hoffmann et al., 2022, "Training compute-optimal large language models", section 3.3.

The bootstrap over seeds, for as few of them as a comparison has.

Five seeds have 126 different resamples: all of them are taken, each with its probability, and no
random number is drawn. Percentiles of so few values are too narrow an interval: of five seeds, one
that says 95 % holds 82 %. The bootstrap's standard error with Student's quantile holds 95 %, and is
Student's own interval where the statistic is a mean.

References:
  Efron and Tibshirani, 1993, "An introduction to the bootstrap", chapter 12.
  Hesterberg, 2015, "What teachers should know about the bootstrap": why it is narrow.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from train.report.comparison import ComparedRuns, Group
from train.report.statistics import CONFIDENCE, Estimate, estimate

FEWEST_BUDGETS = 3
"""Token budgets that a fit takes: the curve has three coefficients."""
_EXPONENTS = 0.01, 10.0  # Between them a curve is all but a logarithm, and all but a step.
_POINTS, _ZOOMS = 33, 8  # Each zoom narrows the range sixteenfold.


@dataclass(frozen=True)
class LossCurve:
    r"""Curves :math:`L(D) = E + B (D / D_0)^{-\beta}`, one for each entry of the coefficients.

    Attributes:
      floor: E, what no amount of data takes away, in nats per token.
      scale: B, in nats per token.
      exponent: Beta.
      unit: D_0, in tokens.
    """

    floor: Floats
    scale: Floats
    exponent: Floats
    unit: float

    def loss(self, tokens: ArrayLike) -> Floats:
        """The loss after so many tokens."""
        return self.floor + self.scale * (np.asarray(tokens) / self.unit) ** -self.exponent

    def tokens(self, loss: ArrayLike) -> Floats:
        """The tokens that take the curve to a loss: at least one, infinitely many for its floor."""
        above = np.maximum(np.asarray(loss) - self.floor, 0.0)
        never = np.full(above.shape, np.inf)
        ratio = np.divide(self.scale, above, out=never, where=above > 0)
        with np.errstate(over="ignore"):
            return np.maximum(self.unit * ratio ** (1 / self.exponent), 1.0)


def fit_curve(tokens: ArrayLike, losses: ArrayLike) -> LossCurve:
    """The curves with the least squared distance to the losses, a floor below zero not allowed.

    For a given exponent the other two coefficients follow by linear regression; the exponent is
    searched for between 0.01 and 10 by ever finer grids, for all curves at once.

    Args:
      tokens: The budgets, of shape [budgets].
      losses: Of shape [..., budgets], in nats per token.

    Raises:
      ValueError: If there are fewer than three different budgets.
    """
    logs = np.log(np.asarray(tokens, float))
    y = np.asarray(losses, float)[..., None, :]
    if len(set(logs.tolist())) < FEWEST_BUDGETS:
        raise ValueError(
            f"a loss curve takes at least {FEWEST_BUDGETS} token budgets, got "
            f"{len(set(logs.tolist()))}: train at more"
        )
    x = logs - logs.mean()
    low, high = (np.full(y.shape[:-2], math.log(end)) for end in _EXPONENTS)
    for _ in range(_ZOOMS):
        grid = np.linspace(low, high, _POINTS, axis=-1)
        _, _, error = _regress(np.exp(-np.exp(grid)[..., None] * x), y)
        best = np.take_along_axis(grid, error.argmin(-1)[..., None], -1)[..., 0]
        step = (high - low) / (_POINTS - 1)
        low, high = np.maximum(best - step, low), np.minimum(best + step, high)
    exponent = np.exp(best)
    floor, scale, _ = _regress(np.exp(-exponent[..., None, None] * x), y)
    return LossCurve(floor[..., 0], scale[..., 0], exponent, math.exp(logs.mean()))


def _regress(basis: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """Floor, scale, both at least 0, and squared error over the last axis."""
    centred = basis - basis.mean(-1, keepdims=True)
    scale = (centred * y).sum(-1) / (centred**2).sum(-1)
    floor = y.mean(-1) - scale * basis.mean(-1)
    floor, scale = (
        np.where(scale < 0, y.mean(-1), np.maximum(floor, 0.0)),
        np.where(floor < 0, (basis * y).sum(-1) / (basis**2).sum(-1), np.maximum(scale, 0.0)),
    )
    error = (floor[..., None] + scale[..., None] * basis - y) ** 2
    return floor, scale, error.sum(-1)


@dataclass(frozen=True, kw_only=True)
class SpeedUp:
    """One optimizer at one budget.

    Attributes:
      tokens: The budget.
      seeds: How many AdamW has too, at every budget.
      diverged: Runs that no number here holds.
      loss: Over those seeds.
      factor: D' / D; infinite where the loss lies below the floor of AdamW's curve.
      low: Lower end of the bootstrap's 95 % interval; None for one seed.
      high: Its upper end; may be infinite.
      is_extrapolated: Whether D' lies beyond twice the largest budget or below half the smallest.
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
      seeds: Those that AdamW finished at every budget.
      losses: AdamW's means over them, by budget.
      curve: Through these.
      intervals: Of the curve's floor and exponent, by the coefficient's name; empty for one
        seed.
      speed_ups: By optimizer and budget.
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


def data_speed_ups(budgets: Mapping[int, ComparedRuns]) -> Scaling | None:
    """Fits AdamW's curve, and reads every optimizer off it.

    The interval is a bootstrap over seeds in pairs: AdamW and the optimizer get the same seeds in
    every resample, and the curve is fitted anew.

    Args:
      budgets: Comparisons that differ in nothing else, by their runs' tokens.

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


Floats = NDArray[np.float64]
_MANY = 8  # seeds, beyond which all resamples are too many: 24310 of nine
_DRAWS = 5000


@dataclass(frozen=True)
class Resamples:
    """Resamples of n seeds.

    Attributes:
      indices: Which seeds are drawn, of shape [resamples, n].
      weights: The probability of each, of shape [resamples].
    """

    indices: NDArray[np.int64]
    weights: Floats

    def means(self, values: Floats) -> Floats:
        """Means of values of shape [..., n] over each resample, of shape [..., resamples]."""
        return values[..., self.indices].mean(-1)

    def interval(
        self, value: float, drawn: Floats, within: tuple[float, float] = (-math.inf, math.inf)
    ) -> tuple[float, float] | None:
        """The 95 % interval of a statistic.

        Args:
          value: The statistic of the seeds themselves.
          drawn: Of each resample, of shape [resamples]; finite.
          within: What the statistic cannot be outside of.

        Returns:
          Its ends, or None for one seed.
        """
        n = self.indices.shape[1]
        if n == 1:
            return None
        variance = self.weights @ (drawn - self.weights @ drawn) ** 2
        quantile = stdtrit(n - 1, 0.5 + CONFIDENCE / 2)
        # A resample's variance is short of the seeds' by (n - 1) / n.
        half_width = float(quantile * math.sqrt(variance * n / (n - 1)))
        return max(value - half_width, within[0]), min(value + half_width, within[1])


def resamples(n: int) -> Resamples:
    """All resamples of n seeds, or 5000 random ones of more than eight.

    Example:
        >>> resamples(2).indices.tolist(), resamples(2).weights.tolist()
        ([[0, 0], [0, 1], [1, 1]], [0.25, 0.5, 0.25])
    """
    if n > _MANY:
        indices = np.random.default_rng(0).integers(n, size=(_DRAWS, n))
        return Resamples(indices, np.full(_DRAWS, 1 / _DRAWS))
    indices = np.array(list(itertools.combinations_with_replacement(range(n), n)))
    times = (indices[:, :, None] == np.arange(n)).sum(1)
    orders = [math.factorial(n) / math.prod(map(math.factorial, row)) for row in times.tolist()]
    return Resamples(indices, np.array(orders) / n**n)
