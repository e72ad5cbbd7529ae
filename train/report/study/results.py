"""Everything that a study's report computes, before any of it is shown."""

from __future__ import annotations

from dataclasses import dataclass

from train.host import units
from train.report.comparison import Group
from train.report.drawing import Looks, looks
from train.report.study.papers_order import Agreement, OrderTest, agreements, order_test
from train.report.study.parts import Conditions, Contest, StudyParts
from train.report.study.rates import RateCurve, rate_curve
from train.report.study.speed_up import Scaling, data_speed_ups


@dataclass(frozen=True)
class StudyResults:
    """What the report shows.

    Attributes:
      scalings: AdamW's curve and the speed-ups, of each text and size with enough budgets; the
        one with the most first.
      too_few: The other texts and sizes, tuned, with their number of budgets, in words.
      tests: The papers' order under each set of conditions, the papers' rate first.
      agreements: Of the orders between conditions.
      curves: Loss over rate, of each optimizer.
    """

    study: StudyParts
    scalings: tuple[tuple[Conditions, Scaling], ...]
    too_few: tuple[str, ...]
    tests: tuple[OrderTest, ...]
    agreements: tuple[Agreement, ...]
    curves: tuple[RateCurve, ...]

    @property
    def headline(self) -> tuple[OrderTest, ...]:
        """The order at the papers' rate and in the same training tuned, or else in the longest."""
        papers = next((one for one in self.tests if one.contest.conditions.is_papers_rate), None)
        if papers is None:
            longest = sorted(self.tests, key=lambda test: test.contest.conditions.tokens)
            return tuple(longest[-1:])
        alike = [
            other
            for other in self.tests
            if other.contest.conditions.differences(papers.contest.conditions) == ["rate"]
        ]
        return (papers, *alike)

    @property
    def curves_by_conditions(self) -> list[list[RateCurve]]:
        """The curves that may stand in one figure."""
        alike: dict[Conditions, list[RateCurve]] = {}
        for curve in self.curves:
            alike.setdefault(curve.sweep.conditions, []).append(curve)
        return list(alike.values())

    @property
    def titles(self) -> dict[str, str]:
        """Every optimizer's title by its key."""
        contests = (group for one in self.study.contests for group in one.comparison.groups)
        return {group.key: group.title for group in contests} | {
            sweep.key: sweep.title for sweep in self.study.sweeps
        }

    @property
    def looks(self) -> Looks:
        """Every optimizer's look by its key, the same in all figures."""
        return looks(Group(key, title, (), None) for key, title in self.titles.items())


def compute(study: StudyParts) -> StudyResults:
    """All results of a study; what its parts do not suffice for stays empty."""
    series: dict[tuple[object, ...], list[Contest]] = {}
    for contest in study.contests:
        series.setdefault(contest.conditions.series, []).append(contest)
    scalings, too_few = [], []
    for contests in series.values():
        conditions = contests[0].conditions
        budgets = {contest.conditions.tokens: contest.comparison for contest in contests}
        if scaling := data_speed_ups(budgets):
            scalings.append((conditions, scaling))
        elif not conditions.is_papers_rate:
            named = f"{conditions.settings}, {conditions.place}"
            too_few.append(f"{named} ({units.plural(len(budgets), 'budget')})")
    tests = [test for contest in study.contests if (test := order_test(contest))]
    curves = [curve for sweep in study.sweeps if (curve := rate_curve(sweep))]
    return StudyResults(
        study=study,
        scalings=tuple(sorted(scalings, key=lambda one: -len(one[1].losses))),
        too_few=tuple(too_few),
        tests=tuple(sorted(tests, key=lambda test: not test.contest.conditions.is_papers_rate)),
        agreements=tuple(agreements(study.contests)),
        curves=tuple(curves),
    )
