"""Figures as SVG whose text and axes take the colour of the page around them, light or dark."""

import io
import re
from xml.sax.saxutils import escape, quoteattr

from markupsafe import Markup
from matplotlib.figure import Figure

from train.report.style import BLUE, FOREGROUND

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
        figure: what to draw.
        prefix: goes before every id, so that two figures of a page have none in common.
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
