"""The tables of a tuning: ranks by budget, and the best settings of each optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from train.host import units
from train.report.statistics import PERCENT
from train.report.table import NOTHING, Cell, Column, Table
from train.report.tuning.trials import Results, Tuned
from train.report.tuning_edges import edges
from train.report.tuning_statistics import SearchCurve, ranks, search_curve

_SMALL = 4  # trials: what a busy person spends on a new optimizer


@dataclass(frozen=True, kw_only=True)
class Standing:
    """An optimizer at one budget: its expected best loss, the band, and its rank."""

    trials: int
    loss: float
    low: float
    high: float
    rank: int


@dataclass(frozen=True, kw_only=True)
class RankRow:
    """One optimizer in the table of ranks; standings by budget."""

    optimizer: str
    title: str
    trials: int
    diverged: int
    standings: dict[str, Standing]


@dataclass(frozen=True, kw_only=True)
class BestRow:
    """The best trial of one optimizer; None where no trial has ended with a usable loss."""

    optimizer: str
    title: str
    trial: int | None
    val_loss: float | None
    bits_per_byte: float | None
    settings: dict[str, Any]
    edges: dict[str, str]


def search_curves(results: Results) -> dict[str, SearchCurve]:
    """The curve of each ranked optimizer, by its key."""
    curves = {}
    for tuned in results.ranked:
        default, *others = (trial.gained for trial in tuned.trials)
        curves[tuned.group.key] = search_curve(default, others)
    return curves


def budgets(results: Results) -> list[int]:
    """The numbers of trials to rank at: the defaults alone, a few, all."""
    return sorted({1, min(_SMALL, results.budget), results.budget})


def ranks_table(results: Results, curves: Mapping[str, SearchCurve]) -> Table:
    """Every optimizer's expected best loss and rank at each budget."""
    standings = {number: _standings(curves, number) for number in budgets(results)}
    rows = tuple(
        RankRow(
            optimizer=tuned.group.key,
            title=tuned.group.title,
            trials=len(tuned.trials),
            diverged=len(tuned.diverged),
            standings={str(number): standings[number][tuned.group.key] for number in standings},
        )
        for tuned in results.ranked
    )
    return Table(
        key="tuning_ranks",
        title="Table 1. Loss and rank by tuning budget",
        caption=(
            "Expected best validation loss, in nats per token, of N trials: the defaults at the "
            "papers’ rate of 3e-4, and N − 1 of the others in random order. Beside each the "
            f"bootstrap’s {PERCENT} band over trials. All trials are of the same steps, data and "
            "seed."
        ),
        columns=(
            Column("Optimizer", _show_optimizer, is_text=True),
            *(column for number in standings for column in _budget_columns(number)),
        ),
        rows=rows,
    )


def best_table(results: Results) -> Table:
    """The best settings of each optimizer."""
    return Table(
        key="tuning_best",
        title="Table 2. The best settings found",
        caption=(
            f"Of {results.planned} trials of each optimizer. The loss is the lowest of many on one "
            "seed and flatters: a comparison over other seeds tells what the settings are worth."
        ),
        columns=(
            Column("Optimizer", lambda row: Cell(row.title), is_text=True),
            Column("Val. loss", lambda row: _number(row.val_loss)),
            Column("Bits/byte", lambda row: _number(row.bits_per_byte)),
            Column("Trial", lambda row: NOTHING if row.trial is None else Cell(str(row.trial))),
            Column("Settings", _show_settings, is_text=True),
        ),
        rows=tuple(_best_row(tuned) for tuned in results.tuned),
    )


def _standings(curves: Mapping[str, SearchCurve], number: int) -> dict[str, Standing]:
    places = ranks({name: float(curve.expected[number - 1]) for name, curve in curves.items()})
    return {
        name: Standing(
            trials=number,
            loss=float(curve.expected[number - 1]),
            low=float(curve.low[number - 1]),
            high=float(curve.high[number - 1]),
            rank=places[name],
        )
        for name, curve in curves.items()
    }


def _best_row(tuned: Tuned) -> BestRow:
    best = tuned.best
    return BestRow(
        optimizer=tuned.group.key,
        title=tuned.group.title,
        trial=best.number if best else None,
        val_loss=best.loss if best else None,
        bits_per_byte=best.final.bits_per_byte if best else None,
        settings=best.settings if best else {},
        edges={edge.field: edge.side for edge in edges(tuned)},
    )


def _budget_columns(number: int) -> tuple[Column, Column]:
    def show_loss(row: RankRow) -> Cell:
        standing = row.standings[str(number)]
        band = f"{units.number(standing.low, 3)}–{units.number(standing.high, 3)}"
        return Cell(units.number(standing.loss, 3), band if number > 1 else "")

    title = "N = 1, defaults" if number == 1 else f"N = {number}"
    return (
        Column(title, show_loss),
        Column("Rank", lambda row: Cell(str(row.standings[str(number)].rank))),
    )


def _show_optimizer(row: RankRow) -> Cell:
    return Cell(row.title, f"{row.diverged} of {row.trials} diverged" if row.diverged else "")


def _show_settings(row: BestRow) -> Cell:
    shown = ", ".join(
        f"{field} {value:g}" if isinstance(value, float) else f"{field} {value}"
        for field, value in row.settings.items()
    )
    at = ", ".join(f"{field} at the {side} edge" for field, side in row.edges.items())
    return Cell(shown or "no trial with a usable loss", f"({at})" if at else "")


def _number(value: float | None) -> Cell:
    return NOTHING if value is None else Cell(units.number(value, 4))
