"""The papers' columns "GPU hours" and "peak memory", with why an optimizer moves them or not."""

from __future__ import annotations

from dataclasses import dataclass

from train.cost_kinds import Ratio
from train.report.comparison import Comparison
from train.report.cost_papers import (
    PRINTED,
    PRINTED_BASE,
    printed_memory_reason,
    printed_time_reason,
)
from train.report.cost_reasons import memory_reason, time_reason
from train.report.cost_sheet import Sheet, ratio_cell, read_sheet
from train.report.table import Cell, Column, Table, show_number


@dataclass(frozen=True, kw_only=True)
class ReasonRow:
    """One optimizer, measured here or printed in a paper; numbers are ratios to the baseline's."""

    optimizer: str
    title: str
    hours: Ratio | None = None
    printed_hours: float | None = None
    peak: float
    time_reason: str
    memory_reason: str


def reasons_table(comparison: Comparison) -> Table:
    """Why time and memory move; empty where the cost sheet is."""
    sheet = read_sheet(comparison)
    here = _measured_rows(sheet) if sheet else ()
    printed = _printed_rows(sheet) if sheet else ()
    return Table(
        key="cost_reasons",
        title="GPU hours and peak memory, and why they move",
        caption=_caption(sheet) if sheet else "",
        columns=_COLUMNS,
        rows=here + printed,
        printed_rows=len(printed),
        is_wide=True,
    )


def _caption(sheet: Sheet) -> str:
    return (
        f"Measured with {sheet.conditions}. Hours are in the ratio of the steps’ times, since all "
        f"take as many steps: ratios to {sheet.base.title}’s, medians and quartiles over "
        f"n = {sheet.base.record.rounds} rounds. The last rows are the Aardvark "
        "paper’s Table 1, single runs, beside what is measured here."
    )


def _measured_rows(sheet: Sheet) -> tuple[ReasonRow, ...]:
    return tuple(
        ReasonRow(
            optimizer=entry.key,
            title=entry.title,
            hours=entry.step,
            peak=entry.peak_bytes / sheet.base.peak_bytes,
            time_reason=time_reason(entry, sheet.base),
            memory_reason=memory_reason(entry, sheet.base, sheet.parameters),
        )
        for entry in sheet.entries
    )


def _printed_rows(sheet: Sheet) -> tuple[ReasonRow, ...]:
    moved = sheet.base.update.bytes_accessed
    if not moved:
        return ()
    entries = {entry.key: entry for entry in sheet.entries}
    return tuple(
        ReasonRow(
            optimizer=f"{row.optimizer.lower()}, printed",
            title=f"{row.optimizer}, printed",
            printed_hours=row.hours / PRINTED_BASE.hours,
            peak=row.gigabytes / PRINTED_BASE.gigabytes,
            time_reason=printed_time_reason(row, moved / sheet.parameters),
            memory_reason=printed_memory_reason(row, entries.get(row.optimizer.lower()), sheet),
        )
        for row in PRINTED
    )


def _hours_cell(row: ReasonRow) -> Cell:
    if row.hours:
        return ratio_cell(row.hours)
    return show_number(row.printed_hours, "{:.2f}×".format)


_COLUMNS = (
    Column("Optimizer", lambda row: Cell(row.title), is_text=True),
    Column("Hours", _hours_cell),
    Column("why", lambda row: Cell(row.time_reason), is_text=True),
    Column("Peak", lambda row: Cell(f"{row.peak:.3f}×")),
    Column("why", lambda row: Cell(row.memory_reason), is_text=True),
)
