"""The GPU hours and the peak memory that the Aardvark paper prints, held against measured costs."""

from __future__ import annotations

from typing import NamedTuple

from train.host import units
from train.report.cost_reasons import alike, signed_size
from train.report.cost_sheet import Entry, Sheet
from train.report.papers import PARAMETERS, RESULTS

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
