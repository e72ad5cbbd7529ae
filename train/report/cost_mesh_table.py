"""What a device of a mesh holds of every optimizer, and what a step exchanges between devices."""

from __future__ import annotations

from dataclasses import dataclass

from train.cost_kinds import MeshCost
from train.host import units
from train.report.comparison import Comparison
from train.report.cost_sheet import Entry, Sheet, read_sheet
from train.report.table import Cell, Column, Table, show_number


@dataclass(frozen=True, kw_only=True)
class MeshRow:
    """One optimizer on a mesh.

    Attributes:
        even_share: the state of a device times the devices, over the whole state: 1 where all of
            it is shared out, more where some is kept whole on each.
        exchanged_bytes: of all collectives together.
        exchanged_ratio: to what the baseline's step exchanges.
        reason: why there are no numbers.
    """

    optimizer: str
    title: str
    mesh: MeshCost | None
    even_share: float | None = None
    exchanged_bytes: int | None = None
    exchanged_ratio: float | None = None
    reason: str | None = None


def mesh_table(comparison: Comparison) -> Table:
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


def _mesh_row(entry: Entry, sheet: Sheet) -> MeshRow:
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
