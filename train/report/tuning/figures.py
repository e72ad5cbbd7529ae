"""A tuning's figures, as files beside the page and as SVG to stand in it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from train.report import tuning_panels as panels
from train.report.drawing import Drawing, draw_panels
from train.report.statistics import PERCENT
from train.report.style import looks
from train.report.tuning.tables import budgets
from train.report.tuning.trials import Results
from train.report.tuning_statistics import SearchCurve


def draw_tuning(results: Results, curves: Mapping[str, SearchCurve], folder: Path) -> list[Drawing]:
    """Writes each figure whole as SVG and PNG, and returns their panels for the page."""
    look = looks(results.comparison.groups)
    drawings = []
    if curves:
        title = "Figure 1. What a tuning budget buys."
        caption = (
            "The best of the defaults and N − 1 other trials, averaged over all orders of the "
            f"trials; bands are the bootstrap’s {PERCENT} over trials. A diverged trial counts "
            "with the loss that it started from. Curves may begin above the frame."
        )
        parts = [
            partial(panels.expected, results=results, curves=curves, looks=look),
            partial(
                panels.rank_changes,
                results=results, curves=curves, budgets=budgets(results), looks=look,
            ),
        ]  # fmt: skip
        drawings.append(draw_panels(folder, "figure1", title, caption, parts))
    title = "Figure 2. Validation loss against the learning rate."
    caption = (
        "Every trial; the other settings differ too. The best is filled, the defaults are a "
        "diamond at the papers’ rate of 3e-4 (dotted). A trial that diverged is a × at the upper "
        "edge. Bands are quartiles of the third of the trials with the nearest rates, the line "
        "is their median."
    )
    parts = [
        partial(panels.rate_curve, tuned=tuned, results=results, looks=look)
        for tuned in results.tuned
        if tuned.trials
    ]
    return [*drawings, draw_panels(folder, "figure2", title, caption, parts)] if parts else drawings
