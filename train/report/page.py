"""A report of any kind, and the one writer of its files: page, figures, tables.

The page is one HTML file that needs nothing else: no network, no fonts, no scripts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console

from train.report import terminal
from train.report.drawing import Drawing
from train.report.table import Table, json_lines, markdown
from train.report.words import Summary

# Escapes every string that goes into the page, except our own SVG, which is marked as safe.
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Section:
    """Tables and figures that belong together; the page shows the figures after the first table.

    Attributes:
      tables: Those without rows are not shown.
      drawings: The figures.
      is_explained: Whether the page says below the first table how each column was measured.
    """

    tables: Sequence[Table] = ()
    drawings: Sequence[Drawing] = ()
    is_explained: bool = False


@dataclass(frozen=True)
class Report:
    """What a report consists of.

    Attributes:
      title: The heading of the page.
      summary: The sentences around the tables.
      sections: The tables and figures, in their order on the page.
      about: What was run, as its own file says it, under a heading; None leaves it out.
      files: Further files, by name.
      runs: What the runs are called: trials, in a tuning.
    """

    title: str
    summary: Summary
    sections: Sequence[Section]
    about: tuple[str, str] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    runs: str = "runs"


def write(report: Report, out: Path, console: Console | None = None) -> Path:
    """Writes a report whose figures are drawn already, and prints its tables.

    Args:
      report: What to write.
      out: The folder, which exists: `index.html`, `tables.jsonl` with the tables' numbers, one
      JSON object a row, and `tables.md` go there, and the report's further files.
      console: Where the tables are printed; the terminal by default.

    Returns:
      The path of the page.
    """
    tables = [table for section in report.sections for table in section.tables if table.rows]
    files = {
        "tables.jsonl": json_lines(tables),
        "tables.md": "\n".join(map(markdown, tables)),
        "index.html": _ENVIRONMENT.get_template("page.html.j2").render(
            report=report, summary=report.summary
        ),
        **report.files,
    }
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8")
    terminal.show(report.summary, tables, console or Console())
    return out / "index.html"
