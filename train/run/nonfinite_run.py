"""Runs that cannot go on, because what they compute is not finite."""

from __future__ import annotations

from pathlib import Path

from train.config.run import RunConfig
from train.records.lines import FinalRecord


class StuckError(RuntimeError):
    """The gradients or the parameters of a run are not finite: it cannot go on.

    Attributes:
      final: The run's last record, which says that it diverged.
    """

    def __init__(self, message: str, final: FinalRecord) -> None:
        super().__init__(message)
        self.final = final


def unless_stuck(final: FinalRecord, config: RunConfig, folder: Path) -> FinalRecord:
    """The last record of a run that came to its end.

    Raises:
      StuckError: If it did not.
    """
    if final.step < config.steps:  # A launcher that starts it again must not take it for done.
        raise StuckError(
            f"{folder} holds a run that got stuck at step {final.step} of {config.steps}: move it "
            "away, or choose another --out.",
            final,
        )
    return final
