"""The report in the terminal: the same tables, within a hundred columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table as RichTable
from rich.text import Text

from train.host.units import plain
from train.report.table import Cell, Table
from train.report.words import Summary

_CUT = 6  # letters of a column's name in a wide table


def show(summary: Summary, tables: Sequence[Table], console: Console) -> None:
    """Prints the finding, the facts, the tables and the cautions."""
    console.print()
    console.print(plain(summary.finding, "bold"))
    for name, value in summary.facts.items():
        console.print(plain(f"{name}: ", "dim") + plain(value))
    for table in tables:
        for title, columns in table.parts or ((table.title, range(len(table.columns))),):
            print_table(console, table, columns, title)
    for line in summary.unfinished:
        console.print(plain(f"Unfinished: {line}", "yellow"))
    for line in summary.cautions:
        console.print(plain(f"Caution: {line}", "dim"))


def print_table(
    console: Console, table: Table, columns: Sequence[int] | None = None, title: str | None = None
) -> None:
    """Prints a table, or some of its columns under a title of their own."""
    chosen = range(len(table.columns)) if columns is None else columns
    shown = RichTable(
        title=title or table.title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False,
        padding=(0, 1, 0, 0), pad_edge=False,
    )  # fmt: skip
    cells = [[_text(row[i], i == 0, table.is_wide) for i in chosen] for row in table.cells]
    for place, index in enumerate(chosen):
        column = table.columns[index]
        justify: JustifyMethod = "left" if column.is_text else "right"
        # A wide table's columns are its rows again, and their names may be cut.
        is_cut = table.is_wide and not column.is_text
        header = column.title[:_CUT] if is_cut else column.title
        words = " ".join([header, *(row[place].plain for row in cells)]).split()
        # Where the terminal is narrow, lines break between words and never within a number.
        shown.add_column(
            plain(header), justify=justify, overflow="fold", min_width=max(map(len, words))
        )
    first_printed = len(table.rows) - table.printed_rows
    for number, row in enumerate(cells):
        shown.add_row(*row, style="italic dim" if number >= first_printed else "")
    console.print(shown)
    console.print()


def _text(cell: Cell, is_name: bool, is_short: bool) -> Text:
    """The cell; a name's detail goes under it."""
    if is_name and cell.detail:
        return plain(cell.text) + plain(f"\n{cell.detail}", "red")
    text = cell.text if is_short else str(cell).replace(" ± ", "±")
    return plain(text, "bold" if cell.is_strong else "")
