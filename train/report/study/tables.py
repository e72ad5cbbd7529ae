"""The tables of the effective-data speed-up: AdamW's curve, and what the others are worth by it.

The tables of the orders: the papers' one tested, and how orders agree between conditions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from train.host import units
from train.report.comparison import BASELINE
from train.report.pairs import LEVEL
from train.report.statistics import PERCENT
from train.report.study.papers_order import (
    PAPERS_ORDER,
    Agreement,
    Correlation,
    Neighbours,
    OrderTest,
)
from train.report.study.parts import Conditions
from train.report.study.speed_up import Scaling, SpeedUp
from train.report.table import NOTHING, Cell, Column, Table, show_interval


@dataclass(frozen=True, kw_only=True)
class SpeedUpRow:
    """One optimizer; speed-ups by the budget's tokens."""

    optimizer: str
    title: str
    conditions: str
    speed_ups: dict[str, SpeedUp]


@dataclass(frozen=True, kw_only=True)
class FitRow:
    """AdamW's curve E + B (D / unit)^-exponent; residuals by budget, in nats per token.

    Misfits are what they are worth: tokens that take the curve to AdamW's loss, over its tokens.
    """

    conditions: str
    seeds: int
    floor: float
    floor_interval: tuple[float, float] | None
    scale: float
    unit: float
    exponent: float
    exponent_interval: tuple[float, float] | None
    residuals: dict[str, float]
    misfits: dict[str, float]


def speed_up_table(
    key: str, scaling: Scaling, conditions: Conditions, titles: Mapping[str, str]
) -> Table:
    """What each optimizer's tokens are worth at each budget, the most at the largest first."""
    budgets = list(scaling.losses)
    rows = [
        SpeedUpRow(
            optimizer=name,
            title=titles[name],
            conditions=f"{conditions.settings}, {conditions.place}",
            speed_ups={str(tokens): one for tokens, one in by_budget.items()},
        )
        for name, by_budget in scaling.speed_ups.items()
        if name != BASELINE
    ]
    rows.sort(key=lambda row: [-_factor(row, tokens) for tokens in reversed(budgets)])
    return Table(
        key=key,
        title="Effective-data speed-up over AdamW",
        caption=(
            f"{conditions.settings.capitalize()}, {conditions.place}. Tokens at which the curve "
            "fitted to AdamW’s final losses has the optimizer’s, over those at which it has "
            "AdamW’s own; each budget is a training of its own. Beside each the bootstrap’s "
            f"{PERCENT} interval over seeds, drawn in pairs, with the curve fitted anew each time; "
            "in bold where it excludes 1, not corrected for the number of optimizers. †: "
            "extrapolated, beyond twice the largest budget or below half the smallest. ∞: below "
            "the curve’s floor, where by the curve no data takes AdamW."
        ),
        columns=(
            Column("Optimizer", _show_optimizer, is_text=True),
            Column("n", _show_seeds, "Seeds that AdamW finished at every budget too."),
            *(_column(tokens) for tokens in budgets),
        ),
        rows=tuple(rows),
    )


def fit_table(scalings: Sequence[tuple[Conditions, Scaling]]) -> Table:
    """AdamW's curves and how well they fit."""
    return Table(
        key="loss_curve",
        title="AdamW’s loss over tokens",
        caption=(
            "L(D) = E + B (D / D₀)^−β by least squares through the mean final losses, E ≥ 0. "
            "Residuals are mean minus curve; their worth is the tokens at which the curve has "
            "AdamW’s losses, over AdamW’s own: 1 where it fits. Three coefficients follow a few "
            f"budgets closely: small residuals do not prove the form. {PERCENT} bootstrap "
            "intervals over seeds."
        ),
        columns=(
            Column("AdamW’s runs", lambda row: Cell(row.conditions), is_text=True),
            Column("n", lambda row: Cell(str(row.seeds))),
            Column("E", lambda row: _show_coefficient(row.floor, row.floor_interval)),
            Column("B", _show_scale),
            Column("β", lambda row: _show_coefficient(row.exponent, row.exponent_interval)),
            Column("Worth in data", _show_misfits, "What the residuals are worth in data."),
            Column("Residuals", _show_residuals, is_text=True),
        ),
        rows=tuple(
            FitRow(
                conditions=f"{conditions.settings}, {conditions.place}",
                seeds=len(scaling.seeds),
                floor=float(scaling.curve.floor),
                floor_interval=scaling.intervals.get("floor"),
                scale=float(scaling.curve.scale),
                unit=scaling.curve.unit,
                exponent=float(scaling.curve.exponent),
                exponent_interval=scaling.intervals.get("exponent"),
                residuals=dict(zip(map(str, scaling.losses), scaling.residuals, strict=True)),
                misfits=dict(zip(map(str, scaling.losses), scaling.misfits, strict=True)),
            )
            for conditions, scaling in scalings
        ),
    )  # fmt: skip


def show_factor(one: SpeedUp) -> Cell:
    """A speed-up with its interval."""
    mark = "†" if one.is_extrapolated and math.isfinite(one.factor) else ""
    text = f"{_number(one.factor)}×{mark}"
    if one.low is None or one.high is None:
        return Cell(text, "no interval")
    return Cell(text, f"{_number(one.low)}–{_number(one.high)}", one.low > 1 or one.high < 1)


def _number(factor: float) -> str:
    return units.number(factor, 2) if math.isfinite(factor) else "∞"


def _column(tokens: int) -> Column:
    def show(row: SpeedUpRow) -> Cell:
        one = row.speed_ups.get(str(tokens))
        return show_factor(one) if one else NOTHING

    return Column(units.count(tokens), show)


def _show_optimizer(row: SpeedUpRow) -> Cell:
    diverged = sum(one.diverged for one in row.speed_ups.values())
    return Cell(row.title, f"{diverged} diverged" if diverged else "")


def _show_seeds(row: SpeedUpRow) -> Cell:
    seeds = sorted({one.seeds for one in row.speed_ups.values()})
    return Cell("–".join(map(str, dict.fromkeys((seeds[0], seeds[-1])))))


def _factor(row: SpeedUpRow, tokens: int) -> float:
    one = row.speed_ups.get(str(tokens))
    return one.factor if one else 0.0


def _show_coefficient(value: float, ends: tuple[float, float] | None) -> Cell:
    return Cell(
        units.number(value, 3),
        f"{units.number(ends[0], 3)}–{units.number(ends[1], 3)}" if ends else "no interval",
    )


def _show_scale(row: FitRow) -> Cell:
    return Cell(units.number(row.scale, 3), f"D₀ = {units.count(row.unit)}")


def _show_misfits(row: FitRow) -> Cell:
    values = row.misfits.values()
    return Cell(f"{_number(min(values))}–{_number(max(values))}×")


def _show_residuals(row: FitRow) -> Cell:
    values = list(row.residuals.values())
    spread = float(np.sqrt(np.mean(np.square(values))))
    return Cell(
        f"{units.number(spread, 4)} r.m.s.",
        ", ".join(units.number(value, 4, sign=True) for value in values),
    )


@dataclass(frozen=True, kw_only=True)
class OrderRow:
    """The papers' order under one set of conditions, by pair of neighbours."""

    conditions: str
    seeds: int
    neighbours: dict[str, Neighbours]
    verdicts: dict[str, str]


def order_table(tests: Sequence[OrderTest]) -> Table:
    """Whether the papers' order holds, neighbour by neighbour."""
    pairs = list(dict.fromkeys(str(one) for test in tests for one in test.neighbours))
    return Table(
        key="papers_order",
        title="The papers’ order, tested",
        caption=(
            f"{' < '.join(PAPERS_ORDER)} in validation loss, by what the two papers print of "
            "single runs; AdamW’s number is the same in both and joins them. Here: the loss of the "
            "second minus that of the first, paired by seed, positive where the papers are right, "
            f"with {PERCENT} intervals. Verdicts are at a level of {LEVEL:.0%} for each row "
            "(paired t-tests, Holm’s correction for its pairs). “Tuned” means that the study gave "
            "each optimizer settings of its own."
        ),
        columns=(
            Column("Conditions", lambda row: Cell(row.conditions), is_text=True),
            Column("n", lambda row: Cell(str(row.seeds)), "Seeds that both have; at most."),
            *(_pair_column(pair) for pair in pairs),
        ),
        rows=tuple(
            OrderRow(
                conditions=str(test.contest.conditions),
                seeds=test.seeds,
                neighbours={str(one): one for one in test.neighbours},
                verdicts={str(one): one.verdict for one in test.neighbours},
            )
            for test in tests
        ),
    )


def agreement_table(agreements: Sequence[Agreement]) -> Table:
    """How alike the orders are, and which pairs change places."""
    return Table(
        key="rank_agreement",
        title="Orders under other conditions",
        caption=(
            "Correlations of the ranks by mean final loss, Kendall’s τ-b and Spearman’s ρ, over "
            f"the optimizers that both have, with the bootstrap’s {PERCENT} intervals over the n "
            "seeds that all of them ended (one that diverged ranks last). Reversed: pairs that "
            f"are told apart in both (at {LEVEL:.0%}, Holm’s correction over all pairs of each) "
            "and change places; the first is better in the first."
        ),
        columns=(
            Column("Compared", _show_compared, is_text=True),
            Column("Alike", _show_alike, is_text=True),
            Column("Optimizers", lambda row: Cell(str(row.optimizers), f"n = {row.seeds}")),
            Column("τ-b", lambda row: _show_correlation(row.tau)),
            Column("ρ", lambda row: _show_correlation(row.rho)),
            Column("Reversed", _show_reversals, is_text=True),
        ),
        rows=tuple(agreements),
    )


def _pair_column(pair: str) -> Column:
    def show(row: OrderRow) -> Cell:
        one = row.neighbours[pair]
        if one.pair is None:
            return Cell(one.verdict, f"{one.diverged} diverged" if one.diverged else "")
        detail = str(show_interval(one.pair.difference, 3, sign=True))
        if one.pair.difference.n != row.seeds:
            detail += f", n = {one.pair.difference.n}"
        if one.diverged:
            detail += f", {one.diverged} diverged"
        return Cell(one.verdict, detail, one.pair.told_apart)

    return Column(pair, show, is_text=True)


def _show_compared(row: Agreement) -> Cell:
    first, second = row.first.parts, row.second.parts
    return Cell(
        ", ".join(_against(first[part], second[part]) for part in row.first.differences(row.second))
    )


def _against(first: str, second: str) -> str:
    """`410k / 819k tokens`: what both end with is said once."""
    number, _, unit = first.partition(" ")
    return f"{number if second.endswith(f' {unit}') else first} / {second}"


def _show_alike(row: Agreement) -> Cell:
    differ = row.first.differences(row.second)
    parts = row.first.parts.items()
    return Cell(", ".join(what for part, what in parts if part not in (*differ, "batch")))


def _show_correlation(found: Correlation) -> Cell:
    ends = " to ".join(units.number(end, 2) for end in found.interval or ())
    return Cell(units.number(found.value, 2), ends or "no interval")


def _show_reversals(row: Agreement) -> Cell:
    if not row.told_apart:
        return NOTHING
    count = f"{len(row.reversals)} of {units.plural(row.told_apart, 'pair')}"
    named = ", ".join(f"{better} < {worse}" for better, worse in row.reversals)
    return Cell(count, named, bool(row.reversals))
