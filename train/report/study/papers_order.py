"""The order that the papers print, tested: neighbour against neighbour, paired by seed."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

from train.host import units
from train.report.pairs import Pair, compare_all, holm
from train.report.papers import RESULTS
from train.report.study.parts import Contest

# By the losses that both papers print. AdamW's 4.927 stands in both and joins the two.
PAPERS_ORDER = tuple(
    dict.fromkeys(row.optimizer for row in sorted(RESULTS, key=lambda row: row.val_loss))
)
"""The optimizers of the papers, the lowest validation loss first."""
_VERBS = {
    "holds": "holds",
    "reversed": "is reversed",
    "not told apart": "is undecided",
    "no pair": "has no pair of finished runs",
}


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Two neighbours of the papers' order.

    Attributes:
        better: the one with the lower loss in the papers.
        worse: the other.
        pair: the other's loss minus the one's, positive where the papers are right; corrected for
            the neighbours of the order. None where they share no finished seed.
        diverged: runs of the two that diverged, which no difference holds.
    """

    better: str
    worse: str
    pair: Pair | None
    diverged: int

    def __str__(self) -> str:
        return f"{self.better} < {self.worse}"

    @property
    def verdict(self) -> str:
        """`holds`, `reversed`, `not told apart`, or `no pair` of finished runs."""
        if self.pair is None:
            return "no pair"
        if not self.pair.told_apart:
            return "not told apart"
        return "holds" if self.pair.difference.mean > 0 else "reversed"


@dataclass(frozen=True)
class OrderTest:
    """The papers' order under one set of conditions."""

    contest: Contest
    neighbours: tuple[Neighbours, ...]

    @property
    def seeds(self) -> int:
        """The most seeds that two neighbours have in common."""
        return max(one.pair.difference.n for one in self.neighbours if one.pair)

    @property
    def outcome(self) -> str:
        """What became of the order, as a verb and its objects."""
        found = {one.verdict for one in self.neighbours}
        if len(found) == 1:
            return f"{_VERBS[found.pop()]} throughout"
        return units.listing(
            [
                f"{verb} for {units.listing(named)}"
                for verdict, verb in _VERBS.items()
                if (named := [str(one) for one in self.neighbours if one.verdict == verdict])
            ]
        )


def order_test(contest: Contest) -> OrderTest | None:
    """Tests the papers' order; None where no two neighbours of it were run."""
    found = []
    for better, worse in itertools.pairwise(PAPERS_ORDER):
        groups = [contest.group(title.lower()) for title in (better, worse)]
        present = [group for group in groups if group]
        pairs = compare_all(present)
        found.append(
            Neighbours(
                better=better,
                worse=worse,
                # compare_all takes the first minus the second.
                pair=pairs[0].reversed if pairs else None,
                diverged=sum(len(group.diverged) for group in present),
            )
        )
    corrected = iter(holm([one.pair.p for one in found if one.pair and one.pair.p is not None]))
    neighbours = tuple(
        dataclasses.replace(one, pair=dataclasses.replace(one.pair, p_holm=next(corrected)))
        if one.pair and one.pair.p is not None
        else one
        for one in found
    )
    return OrderTest(contest, neighbours) if any(one.pair for one in neighbours) else None
