"""A best that lies on the edge of its search space: a better one may lie outside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from train.optimizers.dimensions import Choices
from train.report.tuning.trials import Tuned


class Edge(NamedTuple):
    """The best of an optimizer lies at an edge of a dimension."""

    optimizer: str
    field: str
    side: str
    """`lower` or `upper`."""
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"The best of {self.optimizer} lies at the {self.side} edge of {self.field} "
            f"({self.value:g} in {self.low:g} to {self.high:g}): widen the space."
        )


def edges(tuned: Tuned) -> Iterator[Edge]:
    """The edges that the best trial lies at.

    N trials lie about 1/N of a range apart. Nearer to an edge than that, the best may well be on
    the slope of a valley whose bottom is outside. Where N is small, a tenth of the range counts as
    near: more trials are the cure, and not a wider space.
    """
    if tuned.best is None:
        return
    near = min(1 / len(tuned.trials), 0.1)
    for dimension in tuned.dimensions:
        if isinstance(dimension, Choices):
            continue
        value = tuned.best.settings[dimension.field]
        place = dimension.place(value)
        if place < near or place > 1 - near:
            side = "lower" if place < 0.5 else "upper"
            yield Edge(tuned.group.key, dimension.field, side, value, dimension.low, dimension.high)
