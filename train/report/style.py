"""How figures look: one colour, line and marker per optimizer.

Colours are Okabe and Ito's, which stay apart for colour-blind eyes, with a grey for their yellow,
which white paper swallows; line styles and markers tell the curves apart without any colour.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

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
