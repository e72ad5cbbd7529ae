"""A comparison's costs as the tables about them need them: measured whole, beside a baseline."""

from __future__ import annotations

from dataclasses import dataclass

from train.cost_kinds import Ratio, UpdateCost
from train.host import units
from train.records.lines import CostRecord
from train.report.comparison import Comparison, Group
from train.report.table import NOTHING, Cell


@dataclass(frozen=True, eq=False)  # by identity, so that the baseline is known from a twin
class Entry:
    """One optimizer whose step, update and peak memory were all measured."""

    key: str
    title: str
    record: CostRecord
    update: UpdateCost
    control: Ratio
    peak_bytes: int

    @property
    def step(self) -> Ratio:
        """Of a step's time to the baseline's."""
        record = self.record
        return Ratio(low=record.ratio_low, median=record.step_ratio, high=record.ratio_high)


@dataclass(frozen=True)
class Sheet:
    """What was measured.

    Attributes:
        entries: the optimizers in the tables' order, the baseline among them.
        parameters: of the model.
        conditions: what it was measured on, in words.
    """

    entries: tuple[Entry, ...]
    base: Entry
    parameters: int
    conditions: str


def read_sheet(comparison: Comparison) -> Sheet | None:
    """The costs that were measured whole; None where the baseline's were not."""
    found = {group: entry for group in comparison.ended if (entry := _entry(group))}
    base = comparison.baseline
    if base is None or base not in found:
        return None
    run = base.runs[0].record
    conditions = (
        f"{units.count(run.model.parameters)} parameters, "
        f"{run.batch_size} × {run.context} tokens a step, on {run.device}"
    )
    return Sheet(tuple(found.values()), found[base], run.model.parameters, conditions)


def _entry(group: Group) -> Entry | None:
    cost = group.cost
    if not cost or not cost.update or not cost.step_control or cost.peak_bytes is None:
        return None
    return Entry(group.key, group.title, cost, cost.update, cost.step_control, cost.peak_bytes)


def ratio_cell(ratio: Ratio | None) -> Cell:
    """The median, and the quartiles in smaller print."""
    if ratio is None:
        return NOTHING
    low, high = units.number(ratio.low, 2), units.number(ratio.high, 2)
    return Cell(f"{units.number(ratio.median, 2)}×", f"{low}–{high}")
