"""The bootstrap over seeds, for as few of them as a comparison has.

Five seeds have 126 different resamples: all of them are taken, each with its probability, and no
random number is drawn. Percentiles of so few values are too narrow an interval: of five seeds, one
that says 95 % holds 82 %. The bootstrap's standard error with Student's quantile holds 95 %, and is
Student's own interval where the statistic is a mean.

References:
  Efron and Tibshirani, 1993, "An introduction to the bootstrap", chapter 12.
  Hesterberg, 2015, "What teachers should know about the bootstrap": why it is narrow.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from train.report.statistics import CONFIDENCE

Floats = NDArray[np.float64]
_MANY = 8  # seeds, beyond which all resamples are too many: 24310 of nine
_DRAWS = 5000


@dataclass(frozen=True)
class Resamples:
    """Resamples of n seeds.

    Attributes:
        indices: which seeds are drawn, of shape [resamples, n].
        weights: the probability of each, of shape [resamples].
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
            value: the statistic of the seeds themselves.
            drawn: of each resample, of shape [resamples]; finite.
            within: what the statistic cannot be outside of.

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
