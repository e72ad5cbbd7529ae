"""The order that the papers print, tested: neighbour against neighbour, paired by seed.

Whether optimizers stand in the same order under two sets of conditions.

A correlation of ranks says how alike the orders are as a whole. Which pairs are told apart in both
and change places says what a reader who trusts one of the two would get wrong.

References:
  Kendall, 1945, "The treatment of ties in ranking problems": tau-b.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from train.host import units
from train.report.pairs import Pair, compare_all, holm
from train.report.papers import RESULTS
from train.report.study.parts import Conditions, Contest
from train.report.study.speed_up import Floats, resamples

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
      better: The one with the lower loss in the papers.
      worse: The other.
      pair: The other's loss minus the one's, positive where the papers are right; corrected for
        the neighbours of the order. None where they share no finished seed.
      diverged: Runs of the two that diverged, which no difference holds.
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


FEWEST = 3
"""Optimizers that a correlation takes: of two it is 1 or -1."""


@dataclass(frozen=True)
class Correlation:
    """A correlation of ranks, and the bootstrap's 95 % interval over seeds; None for one seed."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Two comparisons of the same optimizers.

    Attributes:
      first: Conditions of the one.
      second: Conditions of the other.
      optimizers: How many both have.
      seeds: How many all of them ended in both; a diverged run's loss counts as infinite.
      tau: Kendall's tau-b of the mean losses.
      rho: Spearman's correlation of their ranks.
      told_apart: Pairs told apart in both, each by Holm's correction over all pairs.
      reversals: Those of them that change places: the better one's title in the first comparison,
        then the better one's in the second.
    """

    first: Conditions
    second: Conditions
    optimizers: int
    seeds: int
    tau: Correlation
    rho: Correlation
    told_apart: int
    reversals: tuple[tuple[str, str], ...]


def tau_b(first: Floats, second: Floats) -> Floats:
    r"""Kendall's :math:`\tau_b` over the last axis of two arrays of shape [..., n].

    Example:
        >>> tau_b(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])).round(3).item()
        0.333
    """
    a, b = (np.sign(ranks[..., :, None] - ranks[..., None, :]) for ranks in _ranks(first, second))
    return _cosine(a.reshape(*a.shape[:-2], -1), b.reshape(*b.shape[:-2], -1))


def spearman(first: Floats, second: Floats) -> Floats:
    r"""Spearman's :math:`\rho` over the last axis of two arrays of shape [..., n]."""
    return _cosine(*(ranks - ranks.mean(-1, keepdims=True) for ranks in _ranks(first, second)))


def _ranks(*losses: Floats) -> list[Floats]:
    return [rankdata(loss, axis=-1) for loss in losses]


def _cosine(a: Floats, b: Floats) -> Floats:
    """0 where all ranks of one are tied, as when all have diverged: such an order says nothing."""
    product = np.asarray((a * b).sum(-1))
    length = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return np.divide(product, length, out=np.zeros(product.shape), where=length > 0)


def agreement(first: Contest, second: Contest) -> Agreement | None:
    """How alike two comparisons order their optimizers.

    The bootstrap resamples seeds, the same for all optimizers and for both comparisons.

    Returns:
      None for fewer than three optimizers, or no seed, in common.
    """
    keys = sorted(
        {group.key for group in first.comparison.ended}
        & {group.key for group in second.comparison.ended}
    )
    mine, theirs = ([_outcomes(contest, key) for key in keys] for contest in (first, second))
    seeds = sorted(set.intersection(*map(set, (*mine, *theirs)))) if keys else []
    if len(keys) < FEWEST or not seeds:
        return None
    a, b = (np.array([[by[seed] for seed in seeds] for by in losses]) for losses in (mine, theirs))
    drawn = resamples(len(seeds))
    again = drawn.means(a).T, drawn.means(b).T
    verdicts = [_verdicts(contest, keys) for contest in (first, second)]
    both = verdicts[0].keys() & verdicts[1].keys()

    def correlation(correlate: Callable[[Floats, Floats], Floats]) -> Correlation:
        value = float(correlate(a.mean(-1), b.mean(-1)))
        return Correlation(value, drawn.interval(value, correlate(*again), within=(-1.0, 1.0)))

    return Agreement(
        first=first.conditions,
        second=second.conditions,
        optimizers=len(keys),
        seeds=len(seeds),
        tau=correlation(tau_b),
        rho=correlation(spearman),
        told_apart=len(both),
        reversals=tuple(
            verdicts[0][pair] for pair in sorted(both, key=sorted)
            if verdicts[0][pair] != verdicts[1][pair]
        ),
    )  # fmt: skip


def _outcomes(contest: Contest, key: str) -> dict[int, float]:
    """Final losses by seed; who diverged stands behind all others."""
    group = contest.group(key)
    assert group is not None
    return group.losses | {run.record.seed: math.inf for run in group.diverged}


def _verdicts(contest: Contest, keys: Sequence[str]) -> dict[frozenset[str], tuple[str, str]]:
    """The pairs that are told apart: the better one's title, then the other's."""
    groups = [group for group in contest.comparison.groups if group.key in keys]
    titles = {group.key: group.title for group in groups}
    found = {}
    for pair in compare_all(groups):
        if pair.told_apart:
            better, worse = pair.first, pair.second
            if pair.difference.mean > 0:
                better, worse = worse, better
            found[frozenset((better, worse))] = (titles[better], titles[worse])
    return found


def agreements(contests: Sequence[Contest]) -> list[Agreement]:
    """The comparisons that differ in one thing alone; a lone one with those most like it."""
    pairs = {
        (i, j): contests[i].conditions.differences(contests[j].conditions)
        for i, j in itertools.combinations(range(len(contests)), 2)
    }
    chosen = {pair for pair, differ in pairs.items() if len(differ) == 1}
    for lone in set(range(len(contests))) - set(itertools.chain.from_iterable(chosen)):
        own = {pair: len(differ) for pair, differ in pairs.items() if lone in pair}
        chosen |= {pair for pair, count in own.items() if count == min(own.values())}
    found = (agreement(contests[i], contests[j]) for i, j in sorted(chosen))
    return [one for one in found if one]
