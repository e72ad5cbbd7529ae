"""The cost sheet: what every optimizer's step takes in time and memory, beside the baseline's.

Three tables: what was measured; what the compiler counts of the step, and of the update alone; and
what a device of a mesh holds, and a step exchanges between devices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from train.host import units
from train.records.kinds import MeshCost, Ratio, UpdateCost
from train.records.lines import CostRecord
from train.report.comparison import ComparedRuns, Group
from train.report.table import NOTHING, Cell, Column, Table, show_number, show_ratio


@dataclass(frozen=True, eq=False)  # by identity, so that the baseline is known from a twin
class MeasuredCost:
    """One optimizer whose step, update and peak memory were all measured."""

    key: str
    title: str
    record: CostRecord
    update: UpdateCost
    control: Ratio
    peak_bytes: int
    is_control: bool = False
    """Whether it is the baseline's second copy, of which the times alone were measured."""

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


def costs_table(comparison: ComparedRuns) -> Table:
    """The cost sheet, the baseline once more in its last row; empty where it was not measured."""
    sheet = read_sheet(comparison)
    return Table(
        key="costs",
        title="Cost sheet",
        caption=_caption(sheet) if sheet else "",
        columns=_COLUMNS,
        rows=(*sheet.entries, _again(sheet.base)) if sheet else (),
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


def _again(base: MeasuredCost) -> MeasuredCost:
    """The baseline's second copy."""
    control = base.control
    record = replace(
        base.record, step_ratio=control.median, ratio_low=control.low, ratio_high=control.high
    )
    update = replace(base.update, ratio=base.update.control)
    return replace(base, title=f"{base.title} again", record=record, update=update, is_control=True)


def _show_share(share: Ratio | None) -> Cell:
    if share is None:
        return NOTHING
    return Cell(f"{share.median:.1%}", f"{100 * share.low:.1f}–{100 * share.high:.1f}")


_OPTIMIZER = Column("Optimizer", lambda entry: entry.title, is_text=True)

_COLUMNS = (
    _OPTIMIZER,
    Column(
        "Step",
        lambda entry: entry.step,
        show_ratio,
        "Time of a whole training step over that of the baseline.",
    ),
    Column(
        "Update",
        lambda entry: entry.update.ratio,
        show_ratio,
        "Time of the update alone, from gradients to new parameters and state in the old ones’ "
        "memory, over that of the baseline. Clip, guard and schedule belong to it.",
    ),
    Column(
        "Update / step",
        lambda entry: None if entry.is_control else entry.update.share,
        _show_share,
        "Time of the update alone over that of the baseline’s whole step.",
    ),
    Column(
        "State",
        lambda entry: None if entry.is_control else entry.record.state_bytes_per_parameter,
        partial(show_number, show="{:.3g} B/p".format),
        "Optimizer state in bytes per parameter of the model.",
    ),
    Column(
        "Peak",
        lambda entry: None if entry.is_control else entry.peak_bytes,
        partial(show_number, show=units.size),
        "Memory that the compiled step needs on a device: parameters, state, gradients, "
        "activations.",
    ),
)


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
        rows=sheet.entries if sheet else (),
    )


_COUNTS_COLUMNS = (
    _OPTIMIZER,
    Column("FLOPs", lambda entry: entry.record.flops, partial(show_number, show=units.count)),
    Column(
        "Update’s",
        lambda entry: entry.update.flops,
        partial(show_number, show=units.count),
        name="update_flops",
    ),
    Column(
        "Bytes", lambda entry: entry.record.bytes_accessed, partial(show_number, show=units.size)
    ),
    Column(
        "Update’s",
        lambda entry: entry.update.bytes_accessed,
        partial(show_number, show=units.size),
        name="update_bytes",
    ),
    Column(
        "Compiling",
        lambda entry: entry.record.compile_seconds,
        partial(show_number, show=units.duration),
        "Tracing and compiling the step, once in a run.",
    ),
    Column(
        "Update’s",
        lambda entry: entry.update.compile_seconds,
        partial(show_number, show=units.duration),
        name="update_compiling",
    ),
)


def mesh_table(comparison: ComparedRuns) -> Table:
    """State and collectives on a mesh; empty where no step was to be compiled for one."""
    sheet = read_sheet(comparison)
    entries = [
        entry
        for entry in (sheet.entries if sheet else ())
        if entry.record.mesh or entry.record.mesh_reason
    ]
    meshes = [entry.record.mesh for entry in entries if entry.record.mesh]
    return Table(
        key="cost_mesh",
        title=f"On a mesh of {meshes[0].mesh}" if meshes else "On a mesh",
        caption=_mesh_caption(sheet) if sheet else "",
        columns=_mesh_columns(sheet, meshes) if sheet else (),
        rows=tuple(entries),
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


def _mesh_columns(sheet: Sheet, meshes: list[MeshCost]) -> tuple[Column, ...]:
    base = _exchanged(sheet.base.record.mesh)

    def even_share(entry: MeasuredCost) -> float | None:
        mesh, of_parameter = entry.record.mesh, entry.record.state_bytes_per_parameter
        if mesh is None or not of_parameter:
            return None
        return mesh.state_bytes * mesh.devices / (of_parameter * sheet.parameters)

    def of_baseline(entry: MeasuredCost) -> str:
        mesh = entry.record.mesh
        return f"{_exchanged(mesh) / base:.2f}×" if mesh and base else ""

    def collective(kind: str) -> Column:
        def exchanged(entry: MeasuredCost) -> int | None:
            mesh = entry.record.mesh
            return mesh.collective_bytes.get(kind, 0) if mesh else None

        return Column(kind, exchanged, partial(show_number, show=units.size))

    return (
        Column(
            "Optimizer",
            lambda entry: entry.title,
            is_text=True,
            detail=lambda entry: "" if entry.record.mesh else entry.record.mesh_reason or "",
        ),
        Column(
            "State",
            lambda entry: entry.record.mesh.state_bytes if entry.record.mesh else None,
            partial(show_number, show=units.size),
            "Of the optimizer, on one device.",
        ),
        Column(
            "Even share",
            even_share,
            partial(show_number, show="{:.2f}×".format),
            "State of a device times the devices, over the whole state: 1 where all of it is "
            "shared out, more where each device holds some of it whole.",
        ),
        *map(collective, dict.fromkeys(kind for mesh in meshes for kind in mesh.collective_bytes)),
        Column(
            "Exchanged",
            lambda entry: _exchanged(entry.record.mesh) if entry.record.mesh else None,
            partial(show_number, show=units.size),
            "All collectives of a step, and their ratio to those of the baseline’s step.",
            detail=of_baseline,
        ),
    )


def _exchanged(mesh: MeshCost | None) -> int:
    return sum(mesh.collective_bytes.values()) if mesh else 0
