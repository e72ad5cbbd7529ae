"""What a run's last line says of the lines before it, kept while they are written."""

from __future__ import annotations

import math
from collections.abc import Iterable

from train.records.lines import EvalRecord, Record, StepRecord

LATE = 0.95
"""The share of the steps after which a loss counts for the training loss."""


class RunSummary:
    """Takes in a run's records one by one; what it keeps does not grow with their number.

    Args:
      steps: Of the whole run.
      records: What has been recorded before, in order.

    Attributes:
      empty: Whether nothing has been recorded yet.
      last_step: The last that was logged, or 0.
      val_step: The last that was evaluated, or None.
      skipped: Steps that were skipped up to it.
      first_val_loss: Of the evaluation before the first step; NaN if there was none.
    """

    def __init__(self, steps: int, records: Iterable[Record] = ()) -> None:
        self._steps = steps
        self.empty, self.last_step, self.skipped = True, 0, 0
        self.first_val_loss = math.nan
        self.val_step: int | None = None
        self._val_loss = math.nan
        self._late_sum, self._late_count = 0.0, 0
        for record in records:
            self.see(record)

    def see(self, record: Record) -> None:
        """Takes in a record; call it for each, in order."""
        self.empty = False
        if isinstance(record, StepRecord):
            was_skipped = record.skipped > self.skipped and not math.isfinite(record.loss)
            self.last_step, self.skipped = record.step, record.skipped
            if record.step > LATE * self._steps and not was_skipped:
                self._late_sum += record.loss
                self._late_count += 1
        elif isinstance(record, EvalRecord):
            if record.step == 0:
                self.first_val_loss = record.loss
            self.val_step, self._val_loss = record.step, record.loss

    @property
    def train_loss(self) -> float:
        """The mean over the last twentieth of the steps, without skipped ones; NaN before it."""
        return self._late_sum / self._late_count if self._late_count else math.nan

    @property
    def final_val_loss(self) -> float:
        """Of the last step; NaN where it was not evaluated, as when a run got stuck."""
        return self._val_loss if self.val_step == self._steps else math.nan
