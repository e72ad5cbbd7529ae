"""The report as one HTML file that needs nothing else: no network, no fonts, no scripts."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from train.report.drawing import Drawing
from train.report.table import Table
from train.report.words import Summary

# Escapes every string that goes into the page, but for our own SVG, which is marked as safe.
ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(
    summary: Summary, drawings: Sequence[Drawing], results: Table, others: Sequence[Table]
) -> str:
    """The page's HTML: the results and the figures, then the other tables that have rows."""
    return ENVIRONMENT.get_template("report.html.j2").render(
        summary=summary, drawings=drawings, results=results, others=others
    )
