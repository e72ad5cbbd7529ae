"""Ratios of times taken in turn, and whether they can be trusted.

Machines drift, so a time is compared only with its rival's time in the same round, and the result
is the median over the rounds. How much a ratio means is seen from one that must be 1: the rival's
own program once more, in a process of its own (A/A).
"""

from train.records.kinds import Ratio, ratio

__all__ = ["TRUSTED", "Ratio", "ratio", "trusted"]

TRUSTED = (0.97, 1.03)
"""Where the median of the A/A control must lie."""


def trusted(control: Ratio) -> bool:
    """Whether a program is as fast as itself."""
    return TRUSTED[0] <= control.median <= TRUSTED[1]
