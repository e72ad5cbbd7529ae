"""A study's figures: data and its worth, the order at 3e-4 and tuned, and the U of every rate.

The panels of a study's figures, each drawn on axes that it is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    StrMethodFormatter,
)

from train.host import units
from train.report import comparison_figures, row_panels
from train.report.drawing import FOREGROUND, Drawing, Looks, draw_panels, label
from train.report.papers import PAPERS_RATE
from train.report.statistics import PERCENT
from train.report.study import figures as panels
from train.report.study.parts import Conditions, Contest, is_papers_rate, rate_of
from train.report.study.rates import RateCurve
from train.report.study.speed_up import Scaling


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


def losses(axes: Axes, scaling: Scaling, titles: Mapping[str, str], looks: Looks) -> None:
    """Final loss over token budgets, and AdamW's fitted curve."""
    axes.set_title("Final validation loss")
    ends = {}
    for key, by_budget in scaling.speed_ups.items():
        look = looks[key]
        for tokens, one in by_budget.items():
            axes.plot([tokens] * 2, [one.loss.low, one.loss.high], color=look.color, lw=1.2)
        means = [one.loss.mean for one in by_budget.values()]
        axes.plot(list(by_budget), means, look.marker, color=look.color, ms=4)
        axes.plot(list(by_budget), means, color=look.color, lw=0.5, alpha=0.5)
        ends[key] = means[-1]
    along = np.geomspace(min(scaling.losses), max(scaling.losses), 100)
    axes.plot(along, scaling.curve.loss(along), color=FOREGROUND, lw=1.4, zorder=1)
    _set_logarithmic(axes, list(scaling.losses))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    _label_ends(axes, ends, titles, looks)


def factors(axes: Axes, scaling: Scaling, titles: Mapping[str, str], looks: Looks) -> None:
    """What each optimizer's tokens are worth in AdamW's, by budget."""
    axes.set_title("Effective-data speed-up")
    axes.axhline(1, color=FOREGROUND, lw=0.6, ls=":")
    top = 1.15 * max(
        one.factor
        for by_budget in scaling.speed_ups.values()
        for one in by_budget.values()
        if math.isfinite(one.factor)
    )
    others = [key for key in scaling.speed_ups if looks[key].color != FOREGROUND]
    ends = {}
    for number, key in enumerate(others):
        look, by_budget = looks[key], scaling.speed_ups[key]
        # Side by side, so that intervals do not hide each other.
        aside = 1.05 ** (number - (len(others) - 1) / 2)
        for one in by_budget.values():
            if one.low is not None and one.high is not None:
                interval = [min(one.low, top), min(one.high, top)]
                axes.plot([one.tokens * aside] * 2, interval, color=look.color, lw=1.2)
            is_beyond = not math.isfinite(one.factor)
            axes.plot(
                one.tokens * aside, min(one.factor, top), "^" if is_beyond else look.marker,
                color=look.color, mfc="none" if one.is_extrapolated else look.color, ms=4,
            )  # fmt: skip
        heights = [min(one.factor, top) for one in by_budget.values()]
        axes.plot(
            [tokens * aside for tokens in by_budget], heights, color=look.color, lw=0.5, alpha=0.5
        )
        ends[key] = heights[-1]
    _set_logarithmic(axes, list(scaling.losses))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7), numticks=99))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}×"))
    _label_ends(axes, ends, titles, looks)


def rates(axes: Axes, curve: RateCurve, frame: tuple[float, float], looks: Looks) -> None:
    """The final loss over the learning rate: every seed, and the line through their means."""
    look = looks[curve.sweep.key]
    axes.set_title(
        label(curve.sweep.title) + ("" if curve.is_bottom_inside else ": bottom outside")
    )
    axes.axvline(PAPERS_RATE, color=FOREGROUND, lw=0.6, ls=":")
    top = frame[1]
    means = {}
    for group in curve.sweep.groups:
        rate = rate_of(group)
        mark = "D" if is_papers_rate(rate) else "o"
        fill = look.color if rate == curve.best_rate else "none"
        seeds = list(group.losses.values())
        for loss in seeds:
            above = loss > top
            axes.plot(
                rate, min(loss, top), "^" if above else mark, color=look.color, mfc=fill,
                ms=4.5, clip_on=False,
            )  # fmt: skip
        if group.diverged:
            axes.plot(rate, top, "x", color=look.color, ms=6, clip_on=False)
        if seeds:
            means[rate] = float(np.mean(seeds))
    axes.plot(list(means), list(means.values()), color=look.color, lw=1.0)
    axes.set_xscale("log")
    axes.set_ylim(*frame)
    axes.text(
        PAPERS_RATE, 1.0, " 3e-4", transform=axes.get_xaxis_transform(), va="top", fontsize=7.5
    )
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda rate, _: f"{rate:.0e}".replace("e-0", "e-"))
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("peak learning rate")
    axes.grid(axis="y")


def _set_logarithmic(axes: Axes, budgets: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(min(budgets) / 1.3, max(budgets) * 1.3)
    axes.xaxis.set_major_locator(FixedLocator(budgets))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: units.count(tokens)))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel("training tokens")
    axes.grid(axis="y")


def _label_ends(
    axes: Axes, ends: Mapping[str, float], titles: Mapping[str, str], looks: Looks
) -> None:
    """Writes each name beside its last value; `label_ends` knows linear axes alone."""
    to_axes = axes.transScale + axes.transLimits
    heights = {
        key: float(np.clip(to_axes.transform((axes.get_xlim()[1], value))[1], 0, 1))
        for key, value in sorted(ends.items(), key=lambda end: end[1])
    }
    for key, height in zip(heights, comparison_figures.spread(list(heights.values())), strict=True):
        color = looks[key].color
        axes.plot(
            [1.0, 1.035], [heights[key], height],
            transform=axes.transAxes, color=color, lw=0.7, clip_on=False,
        )  # fmt: skip
        axes.text(
            1.045, height, label(titles[key]),
            transform=axes.transAxes, color=color, va="center", fontweight="bold",
        )  # fmt: skip
