"""A tuning's figures, as files beside the page and as SVG to stand in it.

The panels of a tuning's figures, each drawn on axes that it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median_high

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    NullLocator,
    StrMethodFormatter,
)

from train.records.tuning import Trial, TunedOptimizer
from train.report import comparison_figures
from train.report.comparison_figures import Curve
from train.report.drawing import FOREGROUND, Drawing, Looks, draw_panels, label, looks
from train.report.papers import PAPERS_RATE
from train.report.statistics import PERCENT
from train.report.tuning import figures as panels
from train.report.tuning.tables import SearchCurve, budgets, ranks, running_quartiles
from train.report.tuning.trials import TuningResults, search_space


def draw_tuning(
    results: TuningResults, curves: Mapping[str, SearchCurve], folder: Path
) -> list[Drawing]:
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


_RATE = "learning_rate"


def expected(
    axes: Axes, results: TuningResults, curves: Mapping[str, SearchCurve], looks: Looks
) -> None:
    """Expected best loss against the number of trials."""
    axes.set_title("Expected best validation loss")
    groups = {group.key: group for group in results.comparison.groups}
    drawn = {
        groups[tuned.key]: Curve(
            np.arange(1.0, len(curve.expected) + 1), curve.expected, curve.low, curve.high
        )
        for tuned in results.ranked
        for curve in [curves[tuned.key]]
    }
    comparison_figures.draw_bands(axes, drawn, looks)
    for group, curve in drawn.items():
        look = looks[group.key]
        axes.plot(curve.tokens, curve.mean, look.marker, color=look.color, ms=3)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator([2**power for power in range(11)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlim(1, max(2, *(len(curve.expected) for curve in curves.values())))
    axes.set_ylim(top=_frame(curves))
    axes.set_xlabel("trials, the defaults first")
    axes.grid(axis="y")
    comparison_figures.label_ends(axes, drawn, looks)


def rank_changes(
    axes: Axes,
    results: TuningResults,
    curves: Mapping[str, SearchCurve],
    budgets: Sequence[int],
    looks: Looks,
) -> None:
    """The order of the optimizers at each budget, the best on top."""
    axes.set_title("Rank by tuning budget")
    at = [ranks({name: c.expected[n - 1] for name, c in curves.items()}) for n in budgets]
    for tuned in results.ranked:
        name, look = tuned.key, looks[tuned.key]
        heights = [places[name] for places in at]
        axes.plot(heights, color=look.color, ls=look.line, lw=look.width, marker=look.marker, ms=5)
        axes.annotate(
            label(tuned.title), (len(budgets) - 1, heights[-1]), (9, 0),
            textcoords="offset points", color=look.color, va="center", fontweight="bold",
            annotation_clip=False,
        )  # fmt: skip
    names = [f"N = {n}" if n > 1 else "defaults" for n in budgets]
    axes.set_xticks(range(len(budgets)), names)
    axes.set_ylim(len(curves) + 0.4, 0.6)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.grid(axis="x")


def rate_curve(axes: Axes, tuned: TunedOptimizer, results: TuningResults, looks: Looks) -> None:
    """Loss against the learning rate over all trials of one optimizer, the best one filled."""
    look = looks[tuned.key]
    count = f", {len(tuned.diverged)} diverged" if tuned.diverged else ""
    axes.set_title(f"{label(tuned.title)}{count}")
    axes.axvline(PAPERS_RATE, color=FOREGROUND, lw=0.6, ls=":")
    rates = [trial.settings[_RATE] for trial in tuned.trials]
    quartiles = running_quartiles(rates, [trial.gained for trial in tuned.trials])
    if quartiles is not None:
        rate, low, middle, high = quartiles
        axes.fill_between(rate, low, high, color=look.color, alpha=0.16, lw=0)
        axes.plot(rate, middle, color=look.color, lw=0.9)
    bottom, top = _loss_range(results)
    for trial in tuned.trials:
        axes.plot(
            trial.settings[_RATE], min(trial.gained, top), _mark(trial),
            color=look.color, mfc=look.color if trial is tuned.best else "none",
            ms=7 if trial is tuned.best else 4.5, clip_on=False,
        )  # fmt: skip
    [space] = [dimension for dimension in search_space(tuned) if dimension.field == _RATE]
    axes.set_xscale("log")
    low, high = min(map(space.at, (0.0, 1.0))), max(map(space.at, (0.0, 1.0)))
    axes.set_xlim(low, high)
    axes.set_ylim(bottom, top)
    axes.text(
        PAPERS_RATE, 1.0, " 3e-4", transform=axes.get_xaxis_transform(), va="top", fontsize=7.5
    )
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda rate, _: f"{rate:.0e}".replace("e-0", "e-"))
    )
    axes.set_xlabel("peak learning rate")
    axes.grid(axis="y")


def _mark(trial: Trial) -> str:
    if trial.run.diverged:
        return "x"
    return "D" if trial.number == 0 else "o"


def _frame(curves: Mapping[str, SearchCurve]) -> float:
    """The top of the losses: some defaults are so poor that they would press the rest flat."""
    settled = max(curve.expected[min(3, len(curve.expected) - 1)] for curve in curves.values())
    return 1.01 * max(settled, median_high(curve.expected[0] for curve in curves.values()))


def _loss_range(results: TuningResults) -> tuple[float, float]:
    """From a little below the best loss of all to the untrained model's, where no run gained."""
    trials = [trial for tuned in results.tuned for trial in tuned.trials]
    bottom, top = min(trial.gained for trial in trials), max(trial.start for trial in trials)
    return bottom - 0.05 * (top - bottom), top
