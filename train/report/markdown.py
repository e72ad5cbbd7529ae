"""A table as GitHub and the documentation show it."""

import re

from train.report.table import Cell, Table

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
