"""Means over seeds with Student-t intervals, and differences paired by seed.

One run says nothing about chance: an estimate of one value has no interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

CONFIDENCE = 0.95
PERCENT = f"{100 * CONFIDENCE:.0f}\N{NO-BREAK SPACE}%"


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` seeds.

    Attributes:
      n: How many values it is over.
      mean: Their mean.
      sd: Their sample standard deviation (divisor n - 1); None for one value.
      half_width: Half of the 95 % interval; None for one value.
    """

    n: int
    mean: float
    sd: float | None
    half_width: float | None

    @property
    def low(self) -> float:
        """The interval's lower end; the mean itself where there is no interval."""
        return self.mean - (self.half_width or 0.0)

    @property
    def high(self) -> float:
        """The interval's upper end; the mean itself where there is no interval."""
        return self.mean + (self.half_width or 0.0)

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval and zero lies outside of it."""
        return self.half_width is not None and (self.low > 0 or self.high < 0)


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of independent values with its Student-t interval.

    Raises:
      ValueError: If there are no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("an estimate needs at least one value, got none")
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(n=1, mean=mean, sd=None, half_width=None)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    quantile = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2))
    return Estimate(n=n, mean=mean, sd=sd, half_width=quantile * sd / math.sqrt(n))


def paired_difference(
    values: Mapping[int, float], baseline: Mapping[int, float]
) -> Estimate | None:
    """The mean of value minus baseline over the seeds that both have; None when they share none.

    Runs of one seed start from the same parameters and see the same data in the same order, so
    that what the seed does to both cancels in the difference.
    """
    differences = paired_seeds(values, baseline)
    return estimate(differences) if differences else None


def paired_seeds(values: Mapping[int, float], baseline: Mapping[int, float]) -> list[float]:
    """Value minus baseline of each seed that both have."""
    return [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())]
