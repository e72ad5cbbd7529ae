"""The report's figures, as files beside the page and as SVG to stand in it.

Figure 1 is written whole (``figure1.svg``, ``figure1.png``) for a README or a paper; the page takes
its panels one by one, so that a phone can stack them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.report import dots, panels
from train.report.comparison import Comparison
from train.report.statistics import PERCENT
from train.report.style import RC, Looks, looks
from train.report.svg import inline_svg, standalone_svg

Panel = Callable[[Axes, Comparison, Looks], None]
_PANEL = (4.3, 3.1)  # inches: on a phone, where a panel fills the width, its text is 9 pixels


@dataclass(frozen=True)
class Drawing:
    """A figure for the page: its panels as SVG, and its caption."""

    key: str
    title: str
    caption: str
    panels: tuple[Markup, ...]


def draw(comparison: Comparison, folder: Path) -> list[Drawing]:
    """Writes each figure whole as SVG and PNG, and returns their panels for the page."""
    sentences = [
        "Lines are means over the seeds, bands reach from the lowest seed to the highest.",
        "The training loss is a moving average over 4 % of the steps.",
    ]
    if any(group.diverged or group.unfinished for group in comparison.groups):
        sentences.append("Thin lines are runs that diverged (×) or are under way.")
    parts: list[Panel] = [panels.training]
    finished = [group for group in comparison.groups if group.finished]
    if finished:
        compared = comparison.baseline and len(finished) > 1
        late = panels.difference if compared else panels.closing
        parts += [panels.validation, late, dots.finals]
        sentences.append(
            f"The last panel shows each optimizer’s mean with its {PERCENT} interval; rings are "
            "single seeds."
        )
    drawings = [
        _draw(comparison, folder, "figure1", "Figure 1. Training dynamics.", sentences, parts)
    ]
    if comparison.ended and comparison.has_step_ratios:
        sentences = [
            "Step time as a ratio to AdamW’s, both timed in turn in one process, and the "
            "optimizer’s state in bytes per parameter of the model."
        ]
        parts = [dots.step_ratios, dots.state_sizes]
        drawings.append(_draw(comparison, folder, "figure2", "Figure 2. Costs.", sentences, parts))
    return drawings


def _draw(
    comparison: Comparison,
    folder: Path,
    key: str,
    title: str,
    sentences: Sequence[str],
    parts: Sequence[Panel],
) -> Drawing:
    look = looks(comparison.groups)
    columns = min(2, len(parts))
    rows = len(parts) // columns
    with matplotlib.rc_context(RC):
        whole = Figure((columns * _PANEL[0], rows * _PANEL[1]), layout="constrained")
        cells = whole.subfigures(rows, columns, squeeze=False, wspace=0.03, hspace=0.04)
        for cell, panel in zip(cells.flat, parts, strict=True):
            panel(cell.subplots(), comparison, look)
        (folder / f"{key}.svg").write_text(standalone_svg(whole, title), encoding="utf-8")
        whole.savefig(folder / f"{key}.png", dpi=200, facecolor="white", bbox_inches="tight")
        singles = []
        for number, panel in enumerate(parts):
            single = Figure(_PANEL, layout="constrained")
            panel(single.subplots(), comparison, look)
            singles.append(inline_svg(single, f"{key}-{number}"))
    return Drawing(key, title, " ".join(sentences), tuple(singles))
