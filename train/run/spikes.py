"""Which steps stand out: a loss far above those before it, or gradients that were not finite.

Runs of large models have spikes that no clipping prevents; PaLM's had about twenty, at batches that
did no harm from another state of the parameters (Chowdhery et al., 2022, section 5.1). So what
matters is to know the step, and to see it again: `python -m train replay`.

A loss is compared with the logged ones before it and with nothing else. They are in the records,
so a run that was interrupted finds what an undisturbed one finds.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from train.records.kinds import Record, SpikeRecord, StepRecord

WINDOW = 50
"""Logged losses that a loss is compared with."""

ENOUGH = 16
"""Logged losses without which there is nothing to compare with."""

DEVIATIONS = 6.0
"""How many deviations above the median are too many. ZClip (Kumar et al., 2025) takes 2.5, but for
gradients, which it may clip without harm: here one healthy step in 160 would be told of. With 6 it
is one in 400,000 where losses are spread normally."""

LEAST_DEVIATION = 0.01
"""Of the median, where the losses hardly differ."""

_TO_SIGMA = 1.4826
"""A normal distribution's standard deviation, in median absolute deviations."""


class Usual(NamedTuple):
    """What losses are like; both numbers are NaN while too few are known."""

    median: float
    deviation: float
    """As the standard deviation, but by the median, which single spikes do not move."""

    @property
    def limit(self) -> float:
        """Above it a loss is a spike."""
        return self.median + DEVIATIONS * self.deviation


class SpikeWatch:
    """Looks at every step's loss; at most one step between two logged ones stands out.

    Args:
      records: What has been recorded so far, in order.

    Example:
      >>> def logged(step, loss):
      ...     return StepRecord(
      ...         step=step, tokens=0, loss=loss, learning_rate=0.1, grad_norm=1.0, seconds=0.0
      ...     )
      >>> watch = SpikeWatch(logged(step, 2.0 + step % 3 / 10) for step in range(16))
      >>> watch.stands_out(2.3, skipped=False), watch.stands_out(3.5, skipped=False)
      (False, True)
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._told = False
        self.usual = Usual(math.nan, math.nan)
        """What the logged losses are like."""
        for record in records:
            self.see(record)

    def see(self, record: Record) -> None:
        """Takes in a record; call it for each, in order."""
        if isinstance(record, SpikeRecord):
            self._told = True
        elif isinstance(record, StepRecord):
            self._told = False
            if math.isfinite(record.loss):
                self._losses.append(record.loss)
                self.usual = _usual(self._losses)

    def stands_out(self, loss: float, *, skipped: bool) -> bool:
        """Whether a step is to be recorded as one that stands out.

        Args:
          loss: The step's, in nats a token.
          skipped: Whether its gradients were not finite.
        """
        too_high = loss > self.usual.limit or not math.isfinite(loss)
        return not self._told and (too_high or skipped)


def _usual(losses: Iterable[float]) -> Usual:
    losses = list(losses)
    if len(losses) < ENOUGH:
        return Usual(math.nan, math.nan)
    median = statistics.median(losses)
    deviation = _TO_SIGMA * statistics.median(abs(loss - median) for loss in losses)
    return Usual(median, max(deviation, LEAST_DEVIATION * abs(median)))
