"""A study's figures: data and its worth, the order at 3e-4 and tuned, and the U of every rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from train.host import units
from train.report import row_panels
from train.report import study_panels as panels
from train.report.drawing import Drawing, draw_panels
from train.report.statistics import PERCENT
from train.report.study.parts import Contest
from train.report.study.rates import RateCurve
from train.report.study.speed_up import Scaling
from train.report.study_conditions import Conditions
from train.report.style import Looks


def speed_up_figure(
    key: str,
    scaling: Scaling,
    conditions: Conditions,
    titles: Mapping[str, str],
    looks: Looks,
    folder: Path,
) -> Drawing:
    """Loss over token budgets with AdamW's curve, and the speed-ups read off it."""
    caption = (
        f"{conditions.settings.capitalize()}, {conditions.place}, n = {len(scaling.seeds)} seeds. "
        f"First: means with {PERCENT} intervals; the line through AdamW’s is the fitted curve. "
        "Second: what a token is worth in AdamW’s; hollow where it is extrapolated, a triangle at "
        "the upper edge where the curve never gets there."
    )
    parts = [
        partial(panel, scaling=scaling, titles=titles, looks=looks)
        for panel in (panels.losses, panels.factors)
    ]
    return draw_panels(folder, key, "Worth in data.", caption, parts)


def order_figure(contests: Sequence[Contest], looks: Looks, folder: Path) -> Drawing:
    """Final losses at the papers' rate, and beside them those of the same training, tuned."""

    def panel(axes: Axes, contest: Contest) -> None:
        row_panels.finals(axes, contest.comparison, looks)
        rate = "3e-4 for all" if contest.conditions.is_papers_rate else "tuned"
        axes.set_title(f"Final validation loss, {rate}")

    conditions = contests[0].conditions
    caption = (
        f"{conditions.place}, {units.count(conditions.tokens)} tokens; means with {PERCENT} "
        "intervals, rings are seeds."
    )
    if len(contests) > 1:
        caption += " The same training at the papers’ rate and tuned."
    parts = [partial(panel, contest=contest) for contest in contests]
    return draw_panels(folder, "order", "Final losses.", caption, parts)


def rates_figure(key: str, curves: Sequence[RateCurve], looks: Looks, folder: Path) -> Drawing:
    """The U of every optimizer, all over the same losses."""
    caption = (
        "Every seed’s final validation loss over the peak rate, and the line through the means. "
        "The best rate is filled, the papers’ 3e-4 (dotted) is a diamond. × diverged; a triangle "
        "lies above the frame."
    )
    frame = _frame(curves)
    parts = [partial(panels.rates, curve=curve, frame=frame, looks=looks) for curve in curves]
    return draw_panels(folder, key, "Loss against the learning rate.", caption, parts)


def _frame(curves: Sequence[RateCurve]) -> tuple[float, float]:
    """Every bottom and most losses at 3e-4: a few hopeless ones would press all others flat."""
    best = [curve.best.mean for curve in curves if curve.best]
    papers = [curve.papers.mean for curve in curves if curve.papers]
    if not best:
        return 0.0, 1.0
    top = max([*best, float(np.quantile(papers or best, 0.75))])
    margin = 0.08 * (top - min(best) or 1.0)
    return min(best) - margin, top + margin
