"""The cost sheet: what every optimizer's step takes in time and memory.

A comparison's costs as the tables about them need them: measured whole, beside a baseline.

What the compiler counts of every optimizer's step, and of its update alone.

What a device of a mesh holds of every optimizer, and what a step exchanges between devices.
"""

from __future__ import annotations

from dataclasses import dataclass

from train.host import units
from train.records.kinds import MeshCost, Ratio, UpdateCost
from train.records.lines import CostRecord
from train.report.comparison import ComparedRuns, Group
from train.report.table import NOTHING, Cell, Column, Table, show_number


@dataclass(frozen=True, eq=False)  # by identity, so that the baseline is known from a twin
class MeasuredCost:
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
      entries: The optimizers in the tables' order, the baseline among them.
      parameters: Of the model.
      conditions: What it was measured on, in words.
    """

    entries: tuple[MeasuredCost, ...]
    base: MeasuredCost
    parameters: int
    conditions: str


def read_sheet(comparison: ComparedRuns) -> Sheet | None:
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


def _entry(group: Group) -> MeasuredCost | None:
    cost = group.cost
    if not cost or not cost.update or not cost.step_control or cost.peak_bytes is None:
        return None
    return MeasuredCost(
        group.key, group.title, cost, cost.update, cost.step_control, cost.peak_bytes
    )


def ratio_cell(ratio: Ratio | None) -> Cell:
    """The median, and the quartiles in smaller print."""
    if ratio is None:
        return NOTHING
    low, high = units.number(ratio.low, 2), units.number(ratio.high, 2)
    return Cell(f"{units.number(ratio.median, 2)}×", f"{low}–{high}")


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


def costs_table(comparison: ComparedRuns) -> Table:
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


def _row(entry: MeasuredCost) -> CostRow:
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


def _control(base: MeasuredCost) -> CostRow:
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


def counts_table(comparison: ComparedRuns) -> Table:
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


def _counts_row(entry: MeasuredCost) -> CountRow:
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


@dataclass(frozen=True, kw_only=True)
class MeshRow:
    """One optimizer on a mesh.

    Attributes:
      even_share: The state of a device times the devices, over the whole state: 1 where all of
        it is shared out, more where some is kept whole on each.
      exchanged_bytes: Of all collectives together.
      exchanged_ratio: To what the baseline's step exchanges.
      reason: Why there are no numbers.
    """

    optimizer: str
    title: str
    mesh: MeshCost | None
    even_share: float | None = None
    exchanged_bytes: int | None = None
    exchanged_ratio: float | None = None
    reason: str | None = None


def mesh_table(comparison: ComparedRuns) -> Table:
    """State and collectives on a mesh; empty where no step was to be compiled for one."""
    sheet = read_sheet(comparison)
    entries = [
        entry
        for entry in (sheet.entries if sheet else ())
        if entry.record.mesh or entry.record.mesh_reason
    ]
    rows = tuple(_mesh_row(entry, sheet) for entry in entries if sheet)
    meshes = [row.mesh for row in rows if row.mesh]
    kinds = dict.fromkeys(kind for mesh in meshes for kind in mesh.collective_bytes)
    return Table(
        key="cost_mesh",
        title=f"On a mesh of {meshes[0].mesh}" if meshes else "On a mesh",
        caption=_mesh_caption(sheet) if sheet else "",
        columns=(*_HELD, *map(_kind_column, kinds), _EXCHANGED),
        rows=rows,
    )


def _mesh_caption(sheet: Sheet) -> str:
    mesh = sheet.base.record.mesh
    parameters = f", which holds {units.size(mesh.parameter_bytes)} of parameters" if mesh else ""
    return (
        f"{sheet.conditions}; bytes of one device{parameters}. The step is compiled for as many "
        "CPU devices and not run. A collective counts by the arrays that go into a device or by "
        "those that come out of it, whichever are larger: how often they cross a wire is the "
        "network’s. A GPU’s compiler may yet join or split collectives."
    )


def _mesh_row(entry: MeasuredCost, sheet: Sheet) -> MeshRow:
    mesh = entry.record.mesh
    if mesh is None:
        reason = entry.record.mesh_reason
        return MeshRow(optimizer=entry.key, title=entry.title, mesh=None, reason=reason)
    whole = entry.record.state_bytes_per_parameter * sheet.parameters
    exchanged, base = _exchanged(mesh), _exchanged(sheet.base.record.mesh)
    return MeshRow(
        optimizer=entry.key,
        title=entry.title,
        mesh=mesh,
        even_share=mesh.state_bytes * mesh.devices / whole if whole else None,
        exchanged_bytes=exchanged,
        exchanged_ratio=exchanged / base if base else None,
    )


def _exchanged(mesh: MeshCost | None) -> int:
    return sum(mesh.collective_bytes.values()) if mesh else 0


def _kind_column(kind: str) -> Column:
    def show(row: MeshRow) -> Cell:
        exchanged = row.mesh.collective_bytes.get(kind, 0) if row.mesh else None
        return show_number(exchanged, units.size)

    return Column(kind, show)


def _exchanged_cell(row: MeshRow) -> Cell:
    ratio = "" if row.exchanged_ratio is None else f"{row.exchanged_ratio:.2f}×"
    return Cell(show_number(row.exchanged_bytes, units.size).text, ratio)


_HELD = (
    Column("Optimizer", lambda row: Cell(row.title, row.reason or ""), is_text=True),
    Column(
        "State",
        lambda row: show_number(row.mesh.state_bytes if row.mesh else None, units.size),
        "Of the optimizer, on one device.",
    ),
    Column(
        "Even share",
        lambda row: show_number(row.even_share, "{:.2f}×".format),
        "State of a device times the devices, over the whole state: 1 where all of it is shared "
        "out, more where each device holds some of it whole.",
    ),
)
_EXCHANGED = Column(
    "Exchanged",
    _exchanged_cell,
    "All collectives of a step, and their ratio to those of the baseline’s step.",
)
