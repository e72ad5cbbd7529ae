"""A figure of panels: whole as SVG and PNG beside the page, and one by one to stand in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.report.style import RC
from train.report.svg import inline_svg, standalone_svg

Panel = Callable[[Axes], None]
_SIZE = (4.3, 3.1)  # inches: on a phone, where a panel fills the width, its text is 9 pixels


@dataclass(frozen=True)
class Drawing:
    """A figure for the page: its panels as SVG, and its caption."""

    key: str
    title: str
    caption: str
    panels: tuple[Markup, ...]


def draw_panels(
    folder: Path, key: str, title: str, caption: str, parts: Sequence[Panel]
) -> Drawing:
    """Writes ``<key>.svg`` and ``<key>.png``, two panels a row, and returns the panels."""
    columns = min(2, len(parts))
    rows = -(-len(parts) // columns)
    with matplotlib.rc_context(RC):
        whole = Figure((columns * _SIZE[0], rows * _SIZE[1]), layout="constrained")
        cells = whole.subfigures(rows, columns, squeeze=False, wspace=0.03, hspace=0.04)
        for cell, panel in zip(cells.flat, parts, strict=False):  # The last cell may stay empty.
            panel(cell.subplots())
        (folder / f"{key}.svg").write_text(standalone_svg(whole, title), encoding="utf-8")
        whole.savefig(folder / f"{key}.png", dpi=200, facecolor="white", bbox_inches="tight")
        singles = []
        for number, panel in enumerate(parts):
            single = Figure(_SIZE, layout="constrained")
            panel(single.subplots())
            singles.append(inline_svg(single, f"{key}-{number}"))
    return Drawing(key, title, caption, tuple(singles))
