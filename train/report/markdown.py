"""A table as GitHub and the documentation show it."""

from train.report.table import Cell, Table


def markdown(table: Table) -> str:
    """The table in Markdown, under its title and caption."""
    head = [column.title for column in table.columns]
    rule = [":--" if column.is_text else "--:" for column in table.columns]
    rows = [[_shown(cell) for cell in cells] for cells in table.cells]
    lines = [" | ".join(_escaped(cell) for cell in cells) for cells in (head, *rows)]
    lines.insert(1, " | ".join(rule))
    body = "".join(f"| {line} |\n" for line in lines)
    return f"**{table.title}.** {table.caption}\n\n{body}"


def _shown(cell: Cell) -> str:
    # A line may break before the interval, and not within it.
    detail = cell.detail.replace("± ", "±\N{NO-BREAK SPACE}")
    return (
        f"**{cell.text}** {detail}".strip() if cell.is_strong else f"{cell.text} {detail}".strip()
    )


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
