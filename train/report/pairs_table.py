"""Table 3 of a comparison: which optimizers are told apart, each against each."""

from __future__ import annotations

import dataclasses
import string
from dataclasses import dataclass

from train.report.comparison import Comparison, Group
from train.report.pairs import LEVEL, Pair, compare_all, indistinguishable
from train.report.statistics import PERCENT
from train.report.table import NOTHING, Cell, Column, Table, show_interval


@dataclass(frozen=True, kw_only=True)
class PairsRow:
    """One optimizer in Table 3.

    Attributes:
        groups: one letter for each set of optimizers that are not told apart, to which it belongs.
        wins: how many others it is told apart from and better than.
        losses: how many it is told apart from and worse than.
        against: by the other's key, its validation loss minus the other's.
    """

    optimizer: str
    title: str
    diverged: int
    groups: str
    wins: int
    losses: int
    against: dict[str, Pair]


def pairs_table(comparison: Comparison) -> Table:
    """Table 3: differences of validation losses, row minus column, and who is told apart."""
    finished = [group for group in comparison.groups if group.finished]
    pairs = compare_all(finished)
    sets = indistinguishable([group.key for group in finished], pairs)
    return Table(
        key="table3",
        title="Table 3. Each against each",
        caption=(
            f"Validation loss of the row minus that of the column, paired by seed, with {PERCENT} "
            "intervals: negative where the row is better. In bold what is told apart at a level of "
            f"{LEVEL:.0%} for the whole table (paired t-tests, Holm’s correction). Rows that share "
            "a letter are not told apart, which does not say that they are equal."
        ),
        columns=(
            Column("Optimizer", _show_optimizer, is_text=True),
            Column("Set", lambda row: Cell(row.groups), is_text=True),
            *(_column(group) for group in finished),
        ),
        rows=tuple(_row(group, pairs, sets) for group in finished if len(finished) > 1),
        is_wide=True,
    )


def _row(group: Group, pairs: list[Pair], sets: list[tuple[str, ...]]) -> PairsRow:
    against = {pair.second: pair for pair in pairs if pair.first == group.key}
    against |= {pair.first: pair.reversed for pair in pairs if pair.second == group.key}
    apart = [pair.difference.mean for pair in against.values() if pair.told_apart]
    letters = zip(string.ascii_lowercase, sets, strict=False)
    return PairsRow(
        optimizer=group.key,
        title=group.title,
        diverged=len(group.diverged),
        groups="".join(letter for letter, members in letters if group.key in members),
        wins=sum(mean < 0 for mean in apart),
        losses=sum(mean > 0 for mean in apart),
        against=against,
    )


def _show_optimizer(row: PairsRow) -> Cell:
    return Cell(row.title, f"{row.diverged} diverged" if row.diverged else "")


def _column(other: Group) -> Column:
    def show(row: PairsRow) -> Cell:
        pair = row.against.get(other.key)
        if pair is None:
            return NOTHING
        shown = show_interval(pair.difference, 3, sign=True)
        return dataclasses.replace(shown, is_strong=pair.told_apart)

    return Column(other.title, show)
