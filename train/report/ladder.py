"""Table 3 of a ladder: what each change does, to the rung before and all in all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from train.report.comparison import ComparedRuns, Group
from train.report.pairs import LEVEL, Pair, compare_pairs
from train.report.statistics import PERCENT, Estimate
from train.report.table import NOTHING, Cell, Column, Table, show_interval


@dataclass(frozen=True, kw_only=True)
class LadderRow:
    """One rung.

    Attributes:
      after: The title of the rung that it differs from in one thing.
      change: Its validation loss minus that rung's, paired by seed.
      against: Its validation loss minus AdamW's, corrected for all rungs.
    """

    optimizer: str
    title: str
    finished: int
    diverged: int
    val_loss: Estimate | None
    after: str
    change: Estimate | None
    against: Pair | None


def rungs(comparison: ComparedRuns) -> list[Group]:
    """The rungs of a ladder, as they were first run; none where nothing stands after another."""
    if not any(_after(group) for group in comparison.groups):
        return []
    return sorted(comparison.ended, key=_started)


def ladder_table(comparison: ComparedRuns) -> Table:
    """Table 3 of a ladder: every rung against the one before it and against AdamW."""
    return Table(
        key="ladder",
        title="Table 3. Rung by rung",
        caption=(
            "Validation loss in nats per token, and its differences to that of the rung named "
            f"beside it, which is another in one thing, and to AdamW’s; paired by seed, ± half of "
            f"Student’s {PERCENT} interval, negative where the rung is better. In bold what is "
            f"told apart from AdamW at a level of {LEVEL:.0%} for the whole ladder (paired "
            "t-tests, Holm’s correction). Rungs in the order in which they were first run."
        ),
        columns=(
            Column("Rung", _show_rung, is_text=True),
            Column("n", lambda row: Cell(str(row.finished))),
            Column("Val. loss", lambda row: show_interval(row.val_loss, 4)),
            Column(
                "Rung before", lambda row: Cell(row.after) if row.after else NOTHING, is_text=True
            ),
            Column("Δ to it", lambda row: show_interval(row.change, 4, sign=True)),
            Column("Δ to AdamW", _show_against),
        ),
        rows=_rows(rungs(comparison), comparison.baseline),
    )


def _rows(groups: Sequence[Group], baseline: Group | None) -> tuple[LadderRow, ...]:
    by_key = {group.key: group for group in groups}
    pairs = compare_pairs([(group, baseline) for group in groups if baseline and group != baseline])
    against = {pair.first: pair for pair in pairs}

    def row(group: Group) -> LadderRow:
        before = by_key.get(_after(group))
        return LadderRow(
            optimizer=group.key,
            title=group.title,
            finished=len(group.finished),
            diverged=len(group.diverged),
            val_loss=group.over_seeds(lambda final: final.val_loss),
            after=before.title if before else _after(group),
            change=group.loss_difference(before) if before else None,
            against=against.get(group.key),
        )

    return tuple(map(row, groups))


def _after(group: Group) -> str:
    return group.runs[0].record.after


def _started(group: Group) -> str:
    """When its first run started: in ISO 8601 and UTC, so that words sort as times."""
    return min(run.record.started for run in group.runs)


def _show_rung(row: LadderRow) -> Cell:
    return Cell(row.title, f"{row.diverged} diverged" if row.diverged else "")


def _show_against(row: LadderRow) -> Cell:
    if row.against is None:
        return NOTHING
    shown = show_interval(row.against.difference, 4, sign=True)
    return replace(shown, is_strong=row.against.told_apart)
