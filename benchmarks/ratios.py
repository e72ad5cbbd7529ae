"""Ratios of times taken in turn, and whether they can be trusted.

Machines drift, so a time is compared only with its rival's time in the same round, and the result
is the median over the rounds. How much a ratio means is seen from one that must be 1: the rival's
own program once more, in a process of its own (A/A).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

TRUSTED = (0.97, 1.03)
"""Where the median of the A/A control must lie."""


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Median and quartiles over the rounds."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.2f}-{self.high:.2f})"


def ratio(times: Sequence[float], rivals: Sequence[float]) -> Ratio:
    """Of times to the rival's in the same rounds."""
    low, median, high = np.quantile(np.divide(times, rivals), [0.25, 0.5, 0.75])
    return Ratio(float(low), float(median), float(high))


def trusted(control: Ratio) -> bool:
    """Whether a program is as fast as itself."""
    return TRUSTED[0] <= control.median <= TRUSTED[1]
