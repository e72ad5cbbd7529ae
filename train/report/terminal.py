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
_SPLIT = 6  # of Table 1's columns, the losses; the rest are costs and become a table of their own


def show(summary: Summary, results: Table, others: Sequence[Table], console: Console) -> None:
    """Prints the finding, the tables and the cautions."""
    _print_finding(console, summary)
    if results.rows:
        costs = [0, *range(_SPLIT, len(results.columns))]
        print_table(console, results, list(range(_SPLIT)), "Table 1a. Losses")
        print_table(console, results, costs, "Table 1b. Costs")
        for table in others:
            if table.rows:
                print_table(console, table)
    _print_cautions(console, summary)


def show_tables(summary: Summary, tables: Sequence[Table], console: Console) -> None:
    """Prints the finding, tables of equal standing and the cautions."""
    _print_finding(console, summary)
    for table in tables:
        print_table(console, table)
    _print_cautions(console, summary)


def _print_finding(console: Console, summary: Summary) -> None:
    """Prints what stands before the tables."""
    console.print()
    console.print(plain(summary.finding, "bold"))
    for name, value in summary.facts.items():
        console.print(plain(f"{name}: ", "dim") + plain(value))


def _print_cautions(console: Console, summary: Summary) -> None:
    """Prints what stands after them."""
    for line in summary.unfinished:
        console.print(plain(f"Unfinished: {line}", "yellow"))
    for line in summary.cautions:
        console.print(plain(f"Caution: {line}", "dim"))


def print_table(
    console: Console, table: Table, columns: list[int] | None = None, title: str | None = None
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
