"""Every optimizer against every other: differences paired by seed, corrected for their number.

Of eight optimizers there are 28 pairs, and at a level of 5 % one of them would be told apart by
chance alone. Holm's correction keeps the chance of any such error in the whole table at 5 %.
"""

from __future__ import annotations

import dataclasses
import itertools
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats

from train.report.comparison import ComparedRuns, Group, diverged
from train.report.statistics import CONFIDENCE, PERCENT, Estimate, paired_seeds
from train.report.table import NOTHING, Cell, Column, Table, show_interval

LEVEL = 1 - CONFIDENCE


@dataclass(frozen=True)
class Pair:
    """One optimizer's validation loss minus another's, over the seeds that both have.

    Attributes:
      first: The key of the one.
      second: The key of the other.
      difference: Mean and Student-t interval.
      p: Probability of a difference as large or larger by chance, of the paired t-test; None
        for one seed, 1 where the better one diverged on a seed that the other finished.
      p_holm: The same, corrected for all pairs that were compared together.
    """

    first: str
    second: str
    difference: Estimate
    p: float | None
    p_holm: float | None

    @property
    def reversed(self) -> Pair:
        """The second minus the first."""
        mean = dataclasses.replace(self.difference, mean=-self.difference.mean)
        return Pair(self.second, self.first, mean, self.p, self.p_holm)

    @property
    def told_apart(self) -> bool:
        """Whether chance is ruled out at the level of the whole table."""
        return self.p_holm is not None and self.p_holm <= LEVEL


def compare_all(groups: Sequence[Group]) -> list[Pair]:
    """All pairs of optimizers that have finished seeds in common."""
    return compare_pairs(itertools.combinations(groups, 2))


def compare_pairs(groups: Iterable[tuple[Group, Group]]) -> list[Pair]:
    """Some pairs of optimizers, corrected for the number of these.

    Those without finished seeds in common are left out. The test is Student's and not one by
    permutation of signs: of five seeds there are 32 permutations, of which the rarest has a
    probability of 1/16.
    """
    found = []
    for first, second in groups:
        difference = first.loss_difference(second)
        if difference is not None:
            values = paired_seeds(first.losses, second.losses)
            p = _p(values)
            better, other = (first, second) if difference.mean < 0 else (second, first)
            if p is not None and _has_lost(better, other):
                p = 1.0
            found.append((first.key, second.key, difference, p))
    corrected = iter(holm([p for *_, p in found if p is not None]))
    return [Pair(*pair, None if pair[-1] is None else next(corrected)) for pair in found]


def holm(p_values: Sequence[float]) -> list[float]:
    r"""Holm's step-down correction.

    .. math:: \tilde p_{(i)} = \max_{j \le i} \min((m - j + 1) p_{(j)}, 1)

    References:
        Holm, A simple sequentially rejective multiple test procedure, 1979.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    m = len(p_values)
    steps = (m - np.arange(m)) * np.asarray(p_values, float)[order]
    corrected = np.empty(m)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected.tolist()


def indistinguishable(keys: Sequence[str], pairs: Sequence[Pair]) -> list[tuple[str, ...]]:
    """The largest sets of optimizers of which no two are told apart.

    An optimizer may be in several: what is not told apart from two others may lie between them.

    Args:
      keys: The optimizers, best first.
      pairs: What is known of them; a pair that is missing is not told apart.

    Returns:
      The sets, each in the order of the keys, in the order of their first members.

    Example:
        >>> indistinguishable("abc", [])
        [('a', 'b', 'c')]
    """
    apart = {frozenset((pair.first, pair.second)) for pair in pairs if pair.told_apart}
    alike = {key: {other for other in keys if other != key} for key in keys}
    for first, second in apart:
        alike[first].discard(second)
        alike[second].discard(first)
    sets = _cliques(alike, set(), set(keys), set())
    in_order = [tuple(sorted(members, key=keys.index)) for members in sets]
    return sorted(in_order, key=lambda members: [keys.index(member) for member in members])


def _cliques(
    alike: Mapping[str, set[str]], members: set[str], candidates: set[str], done: set[str]
) -> Iterator[set[str]]:
    """The largest sets of which all are alike (Bron and Kerbosch, 1973, with a pivot)."""
    if not candidates and not done:
        yield members
        return
    pivot = max(sorted(candidates | done), key=lambda key: len(alike[key] & candidates))
    for key in sorted(candidates - alike[pivot]):
        yield from _cliques(alike, members | {key}, candidates & alike[key], done & alike[key])
        candidates = candidates - {key}
        done = done | {key}


def _has_lost(group: Group, other: Group) -> bool:
    """Whether it diverged where the other did not: a win over the seeds that are left is none."""
    return any(run.record.seed in other.losses for run in group.diverged)


def _p(differences: Sequence[float]) -> float | None:
    if len(differences) < 2:
        return None
    if np.ptp(differences) == 0:
        return 1.0 if differences[0] == 0 else 0.0
    return float(scipy.stats.ttest_1samp(differences, 0.0).pvalue)


def pairs_table(comparison: ComparedRuns) -> Table:
    """Table 3: differences of validation losses, row minus column, and who is told apart."""
    finished = [group for group in comparison.groups if group.finished]
    pairs = compare_all(finished)
    sets = indistinguishable([group.key for group in finished], pairs)
    found = {(pair.first, pair.second): pair for pair in pairs}
    found |= {(pair.second, pair.first): pair.reversed for pair in pairs}

    def letters(group: Group) -> str:
        named = zip(string.ascii_lowercase, sets, strict=False)
        return "".join(letter for letter, members in named if group.key in members)

    def against(other: Group) -> Column:
        return Column(
            other.title, lambda group: found.get((group.key, other.key)), lambda p: show_pair(p, 3)
        )

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
            Column("Optimizer", lambda group: group.title, is_text=True, detail=diverged_of),
            Column("Set", letters, is_text=True),
            *map(against, finished),
        ),
        rows=tuple(finished) if len(finished) > 1 else (),
        is_wide=True,
    )


def diverged_of(group: Group) -> str:
    """How many of its runs diverged, in words; empty if none has."""
    return diverged(len(group.diverged))


def show_pair(pair: Pair | None, digits: int) -> Cell:
    """The difference with its interval, in bold where the two are told apart."""
    if pair is None:
        return NOTHING
    shown = show_interval(pair.difference, digits, sign=True)
    return dataclasses.replace(shown, is_strong=pair.told_apart)
