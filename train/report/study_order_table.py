"""The tables of the orders: the papers' one tested, and how orders agree between conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from train.host import units
from train.report.pairs import LEVEL
from train.report.rank_agreement import Agreement, Correlation
from train.report.statistics import PERCENT
from train.report.study.papers_order import PAPERS_ORDER, Neighbours, OrderTest
from train.report.table import NOTHING, Cell, Column, Table, show_interval


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
