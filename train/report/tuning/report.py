"""The report of a tuning: tables and a page, from the records of its trials alone."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from train.records.files import report_folder
from train.report import page, terminal
from train.report.markdown import markdown
from train.report.table import json_lines
from train.report.tuning.figures import draw_tuning
from train.report.tuning.tables import best_table, ranks_table, search_curves
from train.report.tuning.trials import load_results
from train.report.tuning_files import trials_csv
from train.report.tuning_words import describe


def tuning_report(
    path: Path,
    *,
    out: Path | None = None,
    console: Console | None = None,
    allow_mixed: bool = False,
) -> Path:
    """Reports a tuning, finished or not.

    Writes ``index.html``, ``figure1`` and ``figure2`` (SVG and PNG), the tables as ``tables.jsonl``
    and ``tables.md``, and every trial in ``trials.csv``; prints the tables.

    Args:
        path: the tuning's folder, or the file that it was packed into.
        out: where the report goes; by default as `report_folder` says.
        console: where the tables are printed; the terminal by default.
        allow_mixed: take trials of different data, model, tokens or commit into one table.

    Returns:
        The path of the page.

    Raises:
        ValueError: there are no trials, or some that do not belong into one table.
        RecordError: a record cannot be read; the message names the file and the line.
    """
    results = load_results(path, allow_mixed=allow_mixed)
    out = out or report_folder(path)
    out.mkdir(parents=True, exist_ok=True)
    words, curves = describe(results), search_curves(results)
    tables = [ranks_table(results, curves), best_table(results)] if curves else []
    drawings = draw_tuning(results, curves, out)
    files = {
        "tables.jsonl": json_lines(tables),
        "tables.md": "\n".join(map(markdown, tables)),
        "trials.csv": trials_csv(results),
        "index.html": page.ENVIRONMENT.get_template("tuning.html.j2").render(
            summary=words, drawings=drawings, tables=tables
        ),
    }
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8")
    terminal.show_tables(words, tables, console or Console())
    return out / "index.html"
