"""What the compiler counts of every optimizer's step, and of its update alone."""

from __future__ import annotations

from dataclasses import dataclass

from train.host import units
from train.report.comparison import Comparison
from train.report.cost_sheet import Entry, read_sheet
from train.report.table import Cell, Column, Table, show_number


@dataclass(frozen=True, kw_only=True)
class CountRow:
    """One optimizer; numbers of the update alone begin with ``update``."""

    optimizer: str
    title: str
    flops: float | None
    update_flops: float | None
    bytes_accessed: float | None
    update_bytes_accessed: float | None
    compile_seconds: float | None
    update_compile_seconds: float


def counts_table(comparison: Comparison) -> Table:
    """What the compiler counts; empty where the cost sheet is."""
    sheet = read_sheet(comparison)
    return Table(
        key="cost_counts",
        title="What the compiler counts",
        caption=(
            f"{sheet.conditions}. Of a whole step, and of the update alone. A loop counts once, "
            "and bytes count as often as an operation reads or writes them, caches or not."
            if sheet
            else ""
        ),
        columns=_COUNTS_COLUMNS,
        rows=tuple(map(_counts_row, sheet.entries)) if sheet else (),
    )


def _counts_row(entry: Entry) -> CountRow:
    return CountRow(
        optimizer=entry.key,
        title=entry.title,
        flops=entry.record.flops,
        update_flops=entry.update.flops,
        bytes_accessed=entry.record.bytes_accessed,
        update_bytes_accessed=entry.update.bytes_accessed,
        compile_seconds=entry.record.compile_seconds,
        update_compile_seconds=entry.update.compile_seconds,
    )


_COUNTS_COLUMNS = (
    Column("Optimizer", lambda row: Cell(row.title), is_text=True),
    Column("FLOPs", lambda row: show_number(row.flops, units.count)),
    Column("Update’s", lambda row: show_number(row.update_flops, units.count)),
    Column("Bytes", lambda row: show_number(row.bytes_accessed, units.size)),
    Column("Update’s", lambda row: show_number(row.update_bytes_accessed, units.size)),
    Column(
        "Compiling",
        lambda row: show_number(row.compile_seconds, units.duration),
        "Tracing and compiling the step, once in a run.",
    ),
    Column("Update’s", lambda row: show_number(row.update_compile_seconds, units.duration)),
)
