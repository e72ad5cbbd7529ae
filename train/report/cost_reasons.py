"""Why an optimizer moves time and memory, or does not: sentences made of what was measured.

The GPU hours and the peak memory that the Aardvark paper prints, held against measured costs.

The papers' columns "GPU hours" and "peak memory", with why an optimizer moves them or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from train.host import units
from train.records.kinds import Ratio
from train.report.comparison import Comparison
from train.report.costs import Entry, Sheet, ratio_cell, read_sheet
from train.report.papers import PARAMETERS, RESULTS
from train.report.table import Cell, Column, Table, show_number

FLOAT32 = 4
_WORDS = {1: "one", 2: "two", 3: "three"}
_NOTABLE = 0.001
"""The least part of a peak that is worth a word."""


def time_reason(entry: Entry, base: Entry) -> str:
    """What an update's time does to the step's, and whether that shows.

    Args:
      entry: An optimizer.
      base: The baseline, timed in turn with it.
    """
    share = base.update.share.median
    if entry is base:
        return (
            f"The update is {share:.1%} of the step: one twice as slow would make the step "
            f"{share:.1%} longer. A second copy beside the first: {_show(base.control)}."
        )
    due = 1 + entry.update.share.median - share
    return (
        f"The update takes {entry.update.ratio.median:.2f} times {base.title}’s, which is "
        f"{share:.1%} of the step: that makes {due:.2f}. Measured: {_show(entry.step)}, "
        f"{_against_noise(entry.step, base)}."
    )


def memory_reason(entry: Entry, base: Entry, parameters: int) -> str:
    """What a state's size does to the peak, and what else moves it.

    Args:
      entry: An optimizer.
      base: The baseline.
      parameters: Of the model.
    """
    own = entry.record.state_bytes_per_parameter
    theirs = base.record.state_bytes_per_parameter
    if entry is base:
        share = own * parameters / base.peak_bytes
        return (
            f"The state, {_digits(own)} B a parameter, is {share:.1%} of the peak: to keep none "
            "would save no more. Parameters, gradients and activations are the rest."
        )
    more, peak = (own - theirs) * parameters, entry.peak_bytes - base.peak_bytes
    if alike(own, theirs):
        state = f"Keeps as much state as {base.title}, {_digits(own)} B a parameter."
    else:
        state = (
            f"Keeps {_digits(own)} B of state a parameter, {base.title} {_digits(theirs)}: "
            f"{_numbers(own - theirs)}, {signed_size(more)}."
        )
    size, rest = units.size(base.peak_bytes), peak - more
    notable = _NOTABLE * base.peak_bytes
    if max(abs(peak), abs(rest)) < notable:
        return f"{state} The peak stays at {size}."
    percent = units.number(100 * peak / base.peak_bytes, 1, sign=True)
    moved = f"{state} The peak of {size} moves by {percent}%"
    if abs(rest) < notable:
        return f"{moved}, by nothing else."
    return f"{moved}: {signed_size(rest)} comes from the update’s temporaries."


def alike(own: float, theirs: float) -> bool:
    """Whether two states are of a size, but for numbers kept once a layer."""
    return abs(own - theirs) < 0.02 * FLOAT32


def signed_size(value: float) -> str:
    """Bytes with their sign: ``+534 kB``."""
    return f"{'−' if value < 0 else '+'}{units.size(abs(value))}"


def _numbers(more: float) -> str:
    """A difference of bytes a parameter, in numbers of float32 where it is that."""
    which = "more" if more > 0 else "less"
    whole = round(abs(more) / FLOAT32)
    if whole in _WORDS and alike(abs(more), FLOAT32 * whole):
        return f"{_WORDS[whole]} float32 number{'s' if whole > 1 else ''} {which}"
    return f"{_digits(abs(more))} B {which}"


def _against_noise(step: Ratio, base: Entry) -> str:
    again = f"{base.title}’s second copy"
    if step.low > base.control.high:
        return f"above {again}"
    if step.high < base.control.low:
        return f"below {again}"
    return f"not told apart from {again}"


def _show(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"


def _digits(value: float) -> str:
    return f"{value:.2f}".removesuffix(".00")


STEPS = 100_000
"""Of a run, by the paper's section 3.1: of all readings the one with the most updates."""
BANDWIDTH = 2.039e12
"""Bytes a second of an A100 with 80 GB (NVIDIA's data sheet)."""


class Printed(NamedTuple):
    """One optimizer's costs in the paper's Table 1."""

    optimizer: str
    hours: float
    gigabytes: float


PRINTED = tuple(
    Printed(row.optimizer, row.gpu_hours, row.peak_gigabytes)
    for row in RESULTS
    if row.gpu_hours and row.peak_gigabytes
)
PRINTED_BASE = next(row for row in PRINTED if row.optimizer == "AdamW")


def printed_time_reason(row: Printed, update_bytes: float) -> str:
    """How many of AdamW's updates would make the printed difference.

    Args:
      row: What is printed.
      update_bytes: Bytes a parameter that AdamW's update moves, as it was compiled here.
    """
    hours = STEPS * update_bytes * PARAMETERS / BANDWIDTH / 3600
    if row is PRINTED_BASE:
        return (
            f"Printed: {row.hours} h. The update moves {update_bytes:.0f} B a parameter here. An "
            f"A100 would move {STEPS:,} times that, for {units.count(PARAMETERS)} parameters, in "
            f"{hours:.2f} h: {hours / row.hours:.1%} of the printed time."
        )
    more = row.hours - PRINTED_BASE.hours
    percent = units.number(100 * more / PRINTED_BASE.hours, 1, sign=True)
    verdict = "in every step; there is one to save" if more < 0 else "added to every step"
    return (
        f"Printed: {row.hours} h, {percent}%. The difference is "
        f"{abs(more) / hours:.1f} updates of AdamW’s {verdict}."
    )


def printed_memory_reason(row: Printed, entry: Entry | None, sheet: Sheet) -> str:
    """What of the printed difference the state measured here explains.

    Args:
      row: What is printed.
      entry: The same optimizer here, if it was measured.
      sheet: What was measured, AdamW the baseline.
    """
    theirs = sheet.base.record.state_bytes_per_parameter
    of_model = f"at {units.count(PARAMETERS)} parameters"
    if row is PRINTED_BASE:
        state = theirs * PARAMETERS
        return (
            f"Printed: {row.gigabytes} GB. The state measured here, {theirs:.3g} B a parameter, is "
            f"{units.size(state)} {of_model}, {state / row.gigabytes / 1e9:.1%} of that."
        )
    said = f"Printed: {row.gigabytes} GB, "
    said += f"{signed_size(1e9 * (row.gigabytes - PRINTED_BASE.gigabytes))}."
    if entry is None:
        return f"{said} Its state was not measured here."
    own = entry.record.state_bytes_per_parameter
    if alike(own, theirs):
        return f"{said} The state measured here is as large as AdamW’s and explains none of it."
    more = signed_size((own - theirs) * PARAMETERS)
    return f"{said} The state measured here makes {more} {of_model}."


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
