"""How a figure is drawn: its panels, and one colour, line and marker for each optimizer.

A figure is written whole, as SVG and PNG, and its panels singly, so that a phone can stack them.
SVG takes the colour of the text around it, so that it fits a light page and a dark one.

Colours are Okabe and Ito's, which colour-blind readers can tell apart, with a grey for their
yellow, which is too pale on white. Line styles and markers differ too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import LineStyleType

from train.report.comparison import BASELINE, Group

# Stands for the page's text colour until the SVG is written; a PNG shows it as it is: near black.
FOREGROUND = "#010203"
BLUE = "#0072B2"  # too dark for a dark page, which may ask for another
_COLORS = ("#D55E00", "#CC79A7", "#009E73", "#888888", "#E69F00", BLUE, "#56B4E9")
_LINES: tuple[LineStyleType, ...] = (
    "-",
    (0, (6, 1.5)),
    (0, (3, 1)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (1, 1)),
)
_MARKERS = "osD^vPX"
RC: Any = {  # Any: newer matplotlibs type every key by name
    "axes.axisbelow": True,
    "axes.edgecolor": FOREGROUND,
    "axes.labelcolor": FOREGROUND,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.linewidth": 0.6,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 8,
    "font.size": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.alpha": 0.16,
    "grid.color": FOREGROUND,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.color": FOREGROUND,
    "text.parse_math": False,
    "xtick.color": FOREGROUND,
    "ytick.color": FOREGROUND,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}


@dataclass(frozen=True)
class Look:
    """How one optimizer is drawn."""

    color: str
    line: LineStyleType
    marker: str
    width: float


Looks = Mapping[str, Look]  # by the optimizer's key


def looks(groups: Iterable[Group]) -> Looks:
    """The look of each optimizer, by key. The baseline takes the colour of the text."""
    found = {}
    others = sorted(group.key for group in groups if group.key != BASELINE)
    for index, key in enumerate(others):
        found[key] = Look(
            color=_COLORS[index % len(_COLORS)],
            # After one round of colours, the lines are shifted by one against them.
            line=_LINES[(index + index // len(_COLORS)) % len(_LINES)],
            marker=_MARKERS[1 + index % (len(_MARKERS) - 1)],
            width=1.4,
        )
    return {BASELINE: Look(FOREGROUND, "-", "o", 1.8), **found}


def label(title: str) -> str:
    """A title as a figure can hold it: one short line of characters that print."""
    line = "".join(letter if letter.isprintable() else " " for letter in title).strip()
    return line if len(line) <= 20 else line[:19] + "…"


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


_FONT = "system-ui, -apple-system, Roboto, sans-serif"
# A file by itself has no page around it: it follows the reader's setting, as GitHub's pages do.
_OWN_COLORS = (
    "<style>svg{color:#1c1b19}"
    "@media(prefers-color-scheme:dark){svg{color:#e8e6e1;--blue:#5b93f5}}</style>"
)


def standalone_svg(figure: Figure, title: str) -> str:
    """The figure as a file of its own."""
    svg = _render(figure)
    opening = re.search(r"<svg[^>]*>", svg)
    assert opening
    head = f"<title>{escape(title)}</title>{_OWN_COLORS}"
    return svg[: opening.end()] + head + svg[opening.end() :]


def inline_svg(figure: Figure, prefix: str) -> Markup:
    """The figure as an element of an HTML page.

    Args:
      figure: What to draw.
      prefix: Goes before every id, so that two figures of a page have none in common.
    """
    name = figure.axes[0].get_title(loc="left")
    svg = re.sub(r"^.*?<svg[^>]*>", "", _render(figure), flags=re.DOTALL)
    width, height = (72 * inches for inches in figure.get_size_inches())
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'xlink:href="#', f'href="#{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    opening = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label={quoteattr(name)}>'
    return Markup(opening + svg)  # safe: Matplotlib escapes every text that it draws


def _render(figure: Figure) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    svg = buffer.getvalue().replace(FOREGROUND, "currentColor")
    svg = svg.replace(BLUE.lower(), f"var(--blue, {BLUE})")  # a page sets --blue where it is dark
    return re.sub(r"'DejaVu Sans'[^;\"<]*", _FONT, svg)
