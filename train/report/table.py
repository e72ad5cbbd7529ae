"""A table: what the terminal, the page, Markdown and ``tables.jsonl`` show alike.

A row is whatever the table is about, such as all runs of an optimizer. A column says which value of
a row it holds, how it shows that, and how it was measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from train.host import units
from train.host.typed_json import to_json
from train.records.kinds import Ratio
from train.report.statistics import Estimate


@dataclass(frozen=True)
class Cell:
    """A number, and in smaller print how sure it is."""

    text: str
    detail: str = ""
    is_strong: bool = False
    """Whether it stands out."""

    def __str__(self) -> str:
        return f"{self.text} {self.detail}".strip()


NOTHING = Cell(units.MISSING)


def show_text(value: Any) -> Cell:
    """The value as it is, or a dash where it is missing."""
    return NOTHING if value is None else Cell(str(value))


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      title: Its heading.
      value: Its value of a row: what ``tables.jsonl`` holds.
      show: How that is shown.
      how: How it was measured.
      is_text: Whether it is aligned as text and not as numbers.
      detail: Smaller print from the row, instead of what `show` gives.
      name: In ``tables.jsonl``; by default the title in lower case.
    """

    title: str
    value: Callable[[Any], Any]
    show: Callable[[Any], Cell] = show_text
    how: str = ""
    is_text: bool = False
    detail: Callable[[Any], str] | None = None
    name: str = ""

    @property
    def key(self) -> str:
        """Its name in ``tables.jsonl``."""
        return self.name or re.sub(r"\W+", "_", self.title.lower()).strip("_")

    def cell(self, row: Any) -> Cell:
        """What it shows of a row."""
        cell = self.show(self.value(row))
        return cell if self.detail is None else replace(cell, detail=self.detail(row))


@dataclass(frozen=True)
class Table:
    """A table with its caption.

    Attributes:
      key: Its name in ``tables.jsonl``.
      is_wide: Whether the terminal leaves out the small print, to have room for all columns.
      parts: Titles and columns of the tables that the terminal shows instead, as all columns are
        too many for its width.
      printed_rows: How many of the last rows are quoted from a paper and not of these runs.
    """

    key: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Any, ...]
    printed_rows: int = 0
    is_wide: bool = False
    parts: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def cells(self) -> list[list[Cell]]:
        """What every cell shows, row by row."""
        return [[column.cell(row) for column in self.columns] for row in self.rows]

    def json_rows(self) -> Iterator[dict[str, Any]]:
        """Every row's numbers, ready for a line of JSON."""
        for row in self.rows:
            values = {column.key: column.value(row) for column in self.columns}
            yield {"table": self.key, **to_json(values)}


def json_lines(tables: Iterable[Table]) -> str:
    """What ``tables.jsonl`` holds: the tables' numbers, one JSON object a row."""
    rows = (row for table in tables for row in table.json_rows())
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def show_interval(estimate: Estimate | None, digits: int, *, sign: bool = False) -> Cell:
    """A mean and its 95 % interval."""
    return _show(estimate, estimate.half_width if estimate else None, digits, sign)


def show_spread(estimate: Estimate | None, digits: int) -> Cell:
    """A mean and its standard deviation."""
    return _show(estimate, estimate.sd if estimate else None, digits, sign=False)


def _show(estimate: Estimate | None, spread: float | None, digits: int, sign: bool) -> Cell:
    if estimate is None:
        return NOTHING
    text = units.number(estimate.mean, digits, sign=sign)
    return Cell(text, "n = 1" if spread is None else f"± {units.number(spread, digits)}")


def show_number(value: float | None, show: Callable[[float], str]) -> Cell:
    """A number without a spread, or a dash where it is missing."""
    return NOTHING if value is None else Cell(show(value))


def show_ratio(ratio: Ratio | None) -> Cell:
    """The median, and the quartiles in smaller print."""
    if ratio is None:
        return NOTHING
    low, high = units.number(ratio.low, 2), units.number(ratio.high, 2)
    return Cell(f"{units.number(ratio.median, 2)}×", f"{low}–{high}")


# Less than and an underscore within a word are no markup, and are left as they are.
_MARKUP = re.compile(r"[\\`*\[\]|]|<(?=[A-Za-z/!?])|(?<=--)>|&(?=[#\w])|(?<!\w)_|_(?!\w)")


def markdown(table: Table) -> str:
    """The table in Markdown, under its title and caption."""
    head = [column.title for column in table.columns]
    rule = [":--" if column.is_text else "--:" for column in table.columns]
    rows = [[_shown(cell) for cell in cells] for cells in table.cells]
    lines = [" | ".join(cells) for cells in (map(escaped, head), *rows)]
    lines.insert(1, " | ".join(rule))
    body = "".join(f"| {line} |\n" for line in lines)
    return f"**{escaped(table.title)}.** {escaped(table.caption)}\n\n{body}"


def _shown(cell: Cell) -> str:
    # A line may break before the interval, and not within it.
    detail = escaped(cell.detail).replace("± ", "±\N{NO-BREAK SPACE}")
    text = f"**{escaped(cell.text)}**" if cell.is_strong else escaped(cell.text)
    return f"{text} {detail}".strip()


def escaped(text: str) -> str:
    """The text as it is, on one line: nothing in it ends a row, or is markup or HTML."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.splitlines()))
