"""The report of any set of runs: what they came to, and what they cost."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from train.records.files import report_folder
from train.report import comparison_figures
from train.report.comparison import load
from train.report.comparison_tables import norms_table, results_table
from train.report.costs import costs_table, counts_table, mesh_table
from train.report.ladder import ladder_table, rungs
from train.report.page import Report, Section, write
from train.report.pairs import pairs_table
from train.report.papers import papers_table
from train.report.targets import targets_table
from train.report.words import summarize


def report(
    *paths: Path,
    out: Path | None = None,
    console: Console | None = None,
    allow_mixed: bool = False,
) -> Path:
    """Reports any set of runs: a comparison, a part of one, several together, a single run.

    Writes ``index.html``, ``figure1`` and ``figure2`` (SVG and PNG), and the tables as
    ``tables.jsonl`` and ``tables.md``; prints the tables.

    Args:
      paths: Folders of comparisons, finished or not, or of runs; files of many runs, or folders
        of those. All of their runs make one report.
      out: Where the report goes; by default as `report_folder` says.
      console: Where the tables are printed; the terminal by default.
      allow_mixed: Take runs of different data, model, tokens, commit or settings into one table.

    Returns:
      The path of the page.

    Raises:
      ValueError: If there are no runs, or runs that do not belong into one table.
      RecordError: If a record cannot be read; the message names the file and the line.
    """
    comparison = load(*paths, allow_mixed=allow_mixed)
    out = out or report_folder(*paths)
    out.mkdir(parents=True, exist_ok=True)
    tables = (
        results_table(comparison),
        norms_table(comparison),
        ladder_table(comparison) if rungs(comparison) else pairs_table(comparison),
        targets_table(comparison),
        costs_table(comparison),
        counts_table(comparison),
        mesh_table(comparison),
        papers_table(),
    )
    section = Section(tables, comparison_figures.draw(comparison, out), is_explained=True)
    about = comparison.about and ("What was compared (comparison.json)", comparison.about)
    summary = summarize(comparison)
    return write(
        Report("Optimizer comparison", summary, [section], about=about or None), out, console
    )
