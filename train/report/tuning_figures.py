"""A tuning's figures, as files beside the page and as SVG to stand in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.report import tuning_panels as panels
from train.report.figures import Drawing
from train.report.statistics import PERCENT
from train.report.style import RC, looks
from train.report.svg import inline_svg, standalone_svg
from train.report.tuning_statistics import SearchCurve
from train.report.tuning_tables import budgets
from train.report.tuning_trials import Results

_PANEL = (4.3, 3.1)  # inches, as in a comparison's figures


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
        drawings.append(_draw(folder, "figure1", title, caption, parts))
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
    return [*drawings, _draw(folder, "figure2", title, caption, parts)] if parts else drawings


def _draw(
    folder: Path, key: str, title: str, caption: str, parts: Sequence[Callable[[Axes], None]]
) -> Drawing:
    columns = min(2, len(parts))
    rows = -(-len(parts) // columns)
    with matplotlib.rc_context(RC):
        whole = Figure((columns * _PANEL[0], rows * _PANEL[1]), layout="constrained")
        cells = whole.subfigures(rows, columns, squeeze=False, wspace=0.03, hspace=0.04)
        for cell, panel in zip(cells.flat, parts, strict=False):  # The last cell may stay empty.
            panel(cell.subplots())
        (folder / f"{key}.svg").write_text(standalone_svg(whole, title), encoding="utf-8")
        whole.savefig(folder / f"{key}.png", dpi=200, facecolor="white", bbox_inches="tight")
        singles = []
        for number, panel in enumerate(parts):
            single = Figure(_PANEL, layout="constrained")
            panel(single.subplots())
            singles.append(inline_svg(single, f"{key}-{number}"))
    return Drawing(key, title, caption, tuple(singles))
