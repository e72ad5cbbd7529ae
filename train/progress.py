"""What is told of a run while it is under way."""

from __future__ import annotations

from typing import NamedTuple


class Progress(NamedTuple):
    """What a display shows of a run; called after every step."""

    step: int
    steps: int
    loss: float
    val_loss: float
    """Of the last evaluation; NaN before the first."""
    tokens_per_second: float
