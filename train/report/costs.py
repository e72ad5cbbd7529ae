"""The cost sheet: what every optimizer's step takes in time and memory."""

from __future__ import annotations

from dataclasses import dataclass

from train.cost_kinds import Ratio
from train.host import units
from train.report.comparison import Comparison
from train.report.cost_sheet import Entry, Sheet, ratio_cell, read_sheet
from train.report.table import Cell, Column, Table, show_number


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """One optimizer; numbers of the update alone begin with ``update``."""

    optimizer: str
    title: str
    rounds: int
    step_ratio: Ratio
    update_rounds: int
    update_ratio: Ratio
    update_share: Ratio | None = None
    state_bytes_per_parameter: float | None = None
    peak_bytes: int | None = None


def costs_table(comparison: Comparison) -> Table:
    """The cost sheet, the baseline once more in its last row; empty where it was not measured."""
    sheet = read_sheet(comparison)
    return Table(
        key="costs",
        title="Cost sheet",
        caption=_caption(sheet) if sheet else "",
        columns=_COLUMNS,
        rows=(*map(_row, sheet.entries), _control(sheet.base)) if sheet else (),
    )


def _caption(sheet: Sheet) -> str:
    base = sheet.base
    return (
        f"{sheet.conditions}. Times are ratios to {base.title}’s, taken in turn in one process: "
        f"medians and quartiles over n = {base.record.rounds} rounds of whole steps and "
        f"n = {base.update.rounds} of updates alone. The last row is a second copy of "
        f"{base.title}: what it differs from 1 is noise. An update costs the same however many "
        "tokens a step has, so its share of a step falls as they become more."
    )


def _row(entry: Entry) -> CostRow:
    return CostRow(
        optimizer=entry.key,
        title=entry.title,
        rounds=entry.record.rounds,
        step_ratio=entry.step,
        update_rounds=entry.update.rounds,
        update_ratio=entry.update.ratio,
        update_share=entry.update.share,
        state_bytes_per_parameter=entry.record.state_bytes_per_parameter,
        peak_bytes=entry.peak_bytes,
    )


def _control(base: Entry) -> CostRow:
    return CostRow(
        optimizer=f"{base.key} again",
        title=f"{base.title} again",
        rounds=base.record.rounds,
        step_ratio=base.control,
        update_rounds=base.update.rounds,
        update_ratio=base.update.control,
    )


def _share_cell(row: CostRow) -> Cell:
    if row.update_share is None:
        return Cell(units.MISSING)
    share = row.update_share
    return Cell(f"{share.median:.1%}", f"{100 * share.low:.1f}–{100 * share.high:.1f}")


_COLUMNS = (
    Column("Optimizer", lambda row: Cell(row.title), is_text=True),
    Column(
        "Step",
        lambda row: ratio_cell(row.step_ratio),
        "Time of a whole training step over that of the baseline.",
    ),
    Column(
        "Update",
        lambda row: ratio_cell(row.update_ratio),
        "Time of the update alone, from gradients to new parameters and state in the old ones’ "
        "memory, over that of the baseline. Clip, guard and schedule belong to it.",
    ),
    Column(
        "Update / step",
        _share_cell,
        "Time of the update alone over that of the baseline’s whole step.",
    ),
    Column(
        "State",
        lambda row: show_number(row.state_bytes_per_parameter, "{:.3g} B/p".format),
        "Optimizer state in bytes per parameter of the model.",
    ),
    Column(
        "Peak",
        lambda row: show_number(row.peak_bytes, units.size),
        "Memory that the compiled step needs on a device: parameters, state, gradients, "
        "activations.",
    ),
)
