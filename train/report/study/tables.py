"""The tables of a study: effective-data speed-ups, AdamW's curve, and orders of optimizers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from train.host import units
from train.report.comparison import BASELINE, diverged
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


def speed_up_table(
    key: str, scaling: Scaling, conditions: Conditions, titles: Mapping[str, str]
) -> Table:
    """What each optimizer's tokens are worth at each budget, the most at the largest first."""
    budgets = list(scaling.losses)
    names = [name for name in scaling.speed_ups if name != BASELINE]

    def largest_first(name: str) -> list[float]:
        by_budget = scaling.speed_ups[name]
        return [
            -(by_budget[tokens].factor if tokens in by_budget else 0.0)
            for tokens in reversed(budgets)
        ]

    def divergence(name: str) -> str:
        return diverged(sum(speed_up.diverged for speed_up in scaling.speed_ups[name].values()))

    def seeds(name: str) -> str:
        counts = sorted({speed_up.seeds for speed_up in scaling.speed_ups[name].values()})
        return "–".join(map(str, dict.fromkeys((counts[0], counts[-1]))))

    def budget(tokens: int) -> Column:
        return Column(
            units.count(tokens),
            lambda name: scaling.speed_ups[name].get(tokens),
            lambda speed_up: show_factor(speed_up) if speed_up else NOTHING,
        )

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
            Column("Optimizer", lambda name: titles[name], is_text=True, detail=divergence),
            Column("n", seeds, how="Seeds that AdamW finished at every budget too."),
            *map(budget, budgets),
        ),
        rows=tuple(sorted(names, key=largest_first)),
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
            Column("AdamW’s runs", lambda row: _where(row[0]), is_text=True),
            Column("n", lambda row: len(row[1].seeds)),
            *(
                _coefficient(symbol, name)
                for symbol, name in (("E", "floor"), ("B", "scale"), ("β", "exponent"))
            ),
            Column(
                "Worth in data",
                lambda row: row[1].misfits,
                lambda misfits: Cell(f"{_number(min(misfits))}–{_number(max(misfits))}×"),
                "What the residuals are worth in data.",
            ),
            Column("Residuals", lambda row: row[1].residuals, _show_residuals, is_text=True),
        ),
        rows=tuple(scalings),
    )


def _where(conditions: Conditions) -> str:
    return f"{conditions.settings}, {conditions.place}"


def _coefficient(symbol: str, name: str) -> Column:
    def value(row: tuple[Conditions, Scaling]) -> float:
        return float(getattr(row[1].curve, name))

    def detail(row: tuple[Conditions, Scaling]) -> str:
        if name == "scale":
            return f"D₀ = {units.count(row[1].curve.unit)}"
        ends = row[1].intervals.get(name)
        return f"{units.number(ends[0], 3)}–{units.number(ends[1], 3)}" if ends else "no interval"

    return Column(symbol, value, lambda v: Cell(units.number(v, 3)), detail=detail, name=name)


def show_factor(speed_up: SpeedUp) -> Cell:
    """A speed-up with its interval, in bold where that excludes 1."""
    factor, low, high = speed_up.factor, speed_up.low, speed_up.high
    mark = "†" if speed_up.is_extrapolated and math.isfinite(factor) else ""
    text = f"{_number(factor)}×{mark}"
    if low is None or high is None:
        return Cell(text, "no interval")
    return Cell(text, f"{_number(low)}–{_number(high)}", low > 1 or high < 1)


def _number(factor: float) -> str:
    return units.number(factor, 2) if math.isfinite(factor) else "∞"


def _show_residuals(residuals: Sequence[float]) -> Cell:
    spread = float(np.sqrt(np.mean(np.square(residuals))))
    return Cell(
        f"{units.number(spread, 4)} r.m.s.",
        ", ".join(units.number(value, 4, sign=True) for value in residuals),
    )


def order_table(tests: Sequence[OrderTest]) -> Table:
    """Whether the papers' order holds, neighbour by neighbour."""
    pairs = dict.fromkeys(str(pair) for test in tests for pair in test.neighbours)
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
            Column("Conditions", lambda test: str(test.contest.conditions), is_text=True),
            Column("n", lambda test: test.seeds, how="Seeds that both have; at most."),
            *map(_pair_column, pairs),
        ),
        rows=tuple(tests),
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
            Column("Compared", _compared, is_text=True),
            Column("Alike", _alike, is_text=True),
            Column("Optimizers", lambda row: row.optimizers, detail=lambda row: f"n = {row.seeds}"),
            Column("τ-b", lambda row: row.tau, _show_correlation, name="tau"),
            Column("ρ", lambda row: row.rho, _show_correlation, name="rho"),
            Column("Reversed", lambda row: row, _show_reversals, is_text=True),
        ),
        rows=tuple(agreements),
    )


def _pair_column(name: str) -> Column:
    def neighbours(test: OrderTest) -> Neighbours:
        return next(pair for pair in test.neighbours if str(pair) == name)

    def detail(test: OrderTest) -> str:
        tested = neighbours(test)
        words = []
        if tested.pair is not None:
            difference = tested.pair.difference
            words.append(str(show_interval(difference, 3, sign=True)))
            if difference.n != test.seeds:
                words.append(f"n = {difference.n}")
        return ", ".join(filter(None, (*words, diverged(tested.diverged))))

    def show(tested: Neighbours) -> Cell:
        return Cell(tested.verdict, is_strong=bool(tested.pair and tested.pair.told_apart))

    return Column(name, neighbours, show, is_text=True, detail=detail)


def _compared(row: Agreement) -> str:
    first, second = row.first.parts, row.second.parts
    return ", ".join(
        _against(first[part], second[part]) for part in row.first.differences(row.second)
    )


def _against(first: str, second: str) -> str:
    """`410k / 819k tokens`: what both end with is said once."""
    number, _, unit = first.partition(" ")
    return f"{number if second.endswith(f' {unit}') else first} / {second}"


def _alike(row: Agreement) -> str:
    differ = row.first.differences(row.second)
    parts = row.first.parts.items()
    return ", ".join(words for part, words in parts if part not in (*differ, "batch"))


def _show_correlation(correlation: Correlation) -> Cell:
    ends = " to ".join(units.number(end, 2) for end in correlation.interval or ())
    return Cell(units.number(correlation.value, 2), ends or "no interval")


def _show_reversals(row: Agreement) -> Cell:
    if not row.told_apart:
        return NOTHING
    count = f"{len(row.reversals)} of {units.plural(row.told_apart, 'pair')}"
    named = ", ".join(f"{better} < {worse}" for better, worse in row.reversals)
    return Cell(count, named, bool(row.reversals))
