"""Table 3 of a ladder: what each change does, to the rung before and all in all."""

from __future__ import annotations

from train.report.comparison import ComparedRuns, Group
from train.report.pairs import LEVEL, Pair, compare_pairs, diverged_of, show_pair
from train.report.statistics import PERCENT, Estimate
from train.report.table import Column, Table, show_interval


def rungs(comparison: ComparedRuns) -> list[Group]:
    """The rungs of a ladder, as they were first run; none where nothing stands after another."""
    if not any(_after(group) for group in comparison.groups):
        return []
    return sorted(comparison.ended, key=_started)


def against_baseline(comparison: ComparedRuns) -> dict[str, Pair]:
    """By rung, its validation loss minus AdamW's, corrected for all rungs."""
    baseline = comparison.baseline
    groups = [group for group in rungs(comparison) if baseline and group != baseline]
    return {pair.first: pair for pair in compare_pairs([(g, baseline) for g in groups if baseline])}


def ladder_table(comparison: ComparedRuns) -> Table:
    """Table 3 of a ladder: every rung against the one before it and against AdamW."""
    groups, against = rungs(comparison), against_baseline(comparison)
    by_key = {group.key: group for group in groups}

    def before(group: Group) -> str | None:
        rung = by_key.get(_after(group))
        return rung.title if rung else _after(group) or None

    def change(group: Group) -> Estimate | None:
        rung = by_key.get(_after(group))
        return group.loss_difference(rung) if rung else None

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
            Column("Rung", lambda group: group.title, is_text=True, detail=diverged_of),
            Column("n", lambda group: len(group.finished)),
            Column("Val. loss", lambda group: group.val_loss, lambda loss: show_interval(loss, 4)),
            Column("Rung before", before, is_text=True),
            Column("Δ to it", change, lambda loss: show_interval(loss, 4, sign=True)),
            Column("Δ to AdamW", lambda group: against.get(group.key), lambda p: show_pair(p, 4)),
        ),
        rows=tuple(groups),
    )


def _after(group: Group) -> str:
    return group.runs[0].record.after


def _started(group: Group) -> str:
    """When its first run started: in ISO 8601 and UTC, so that words sort as times."""
    return min(run.record.started for run in group.runs)
