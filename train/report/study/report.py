"""The report of a study: one page over all of its comparisons, from their records alone."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from train.report import page, terminal
from train.report.drawing import Drawing
from train.report.markdown import markdown
from train.report.study import figures as figures
from train.report.study.parts import read_study
from train.report.study.results import Results, compute
from train.report.study.tables import fit_table, speed_up_table
from train.report.study_order_table import agreement_table, order_table
from train.report.study_rates_table import rates_table
from train.report.study_words import describe
from train.report.table import Table, json_lines


class Section(NamedTuple):
    """What belongs together on the page."""

    drawings: list[Drawing]
    tables: list[Table]


def study_report(
    folder: Path,
    *,
    out: Path | None = None,
    console: Console | None = None,
    allow_mixed: bool = False,
) -> Path:
    """Reports a study: the worth of data, the order at 3e-4 and tuned, and how orders agree.

    Writes ``index.html``, the figures (SVG and PNG), and the tables as ``tables.jsonl`` and
    ``tables.md``; prints the tables. What the study has no runs for is left out.

    Args:
        folder: of the study, with a file of runs or a comparison's folder for each of its parts.
        out: where the report goes; ``folder/report`` by default.
        console: where the tables are printed; the terminal by default.
        allow_mixed: take a part in whose runs data, model, tokens, commit or settings differ.

    Returns:
        The path of the page.

    Raises:
        ValueError: the folder holds neither a comparison of optimizers nor a sweep over rates.
    """
    results = compute(read_study(folder, allow_mixed=allow_mixed))
    out = out or folder / "report"
    out.mkdir(parents=True, exist_ok=True)
    words, sections = describe(results), _sections(results, out)
    tables = [table for section in sections for table in section.tables]
    files = {
        "tables.jsonl": json_lines(tables),
        "tables.md": "\n".join(map(markdown, tables)),
        "index.html": page.ENVIRONMENT.get_template("study.html.j2").render(
            summary=words, sections=sections
        ),
    }
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8")
    terminal.show_tables(words, tables, console or Console())
    return out / "index.html"


def _sections(results: Results, out: Path) -> list[Section]:
    """The orders and their rates first, as the papers' claim is about them; then the data."""
    sections, looks = [], results.looks
    if results.tests:
        contests = [test.contest for test in results.headline]
        drawing = figures.order_figure(contests, looks, out)
        sections.append(Section([drawing], [order_table(results.tests)]))
    for number, curves in enumerate(results.curves_by_conditions):
        drawing = figures.rates_figure(_name("rates", number), curves, looks, out)
        sections.append(Section([drawing], [rates_table(_name("rates", number), curves)]))
    if results.agreements:
        sections.append(Section([], [agreement_table(results.agreements)]))
    for number, (conditions, scaling) in enumerate(results.scalings):
        name = _name("speed_up", number)
        drawing = figures.speed_up_figure(name, scaling, conditions, results.titles, looks, out)
        table = speed_up_table(f"data_{name}", scaling, conditions, results.titles)
        sections.append(Section([drawing], [table]))
    if results.scalings:
        sections[-1].tables.append(fit_table(results.scalings))
    return sections


def _name(key: str, number: int) -> str:
    return f"{key}_{number}" if number else key
