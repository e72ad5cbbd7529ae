"""The report of a study: one page over all of its comparisons, from their records alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from train.host import units
from train.records.lines import RunRecord
from train.report import words
from train.report.comparison import BASELINE, ComparedRuns
from train.report.page import Report, Section, write
from train.report.papers import PARAMETERS
from train.report.study import figures
from train.report.study.papers_order import PAPERS_ORDER, OrderTest
from train.report.study.parts import read_study
from train.report.study.rates import rates_table
from train.report.study.results import StudyResults, compute
from train.report.study.speed_up import FEWEST_BUDGETS, SpeedUp
from train.report.study.tables import (
    agreement_table,
    fit_table,
    order_table,
    show_factor,
    speed_up_table,
)
from train.report.words import Summary

_MISFIT = 0.05  # of the data, that AdamW's curve may miss AdamW by without a word


def describe(results: StudyResults) -> Summary:
    """The finding, the facts and the cautions."""
    study = results.study
    pooled = ComparedRuns(study.groups, about=None, notices=())
    return Summary(
        finding=" ".join(_finding(results)),
        facts=words.facts_of(pooled),
        cautions=list(_cautions(results, [run.record for run in pooled.runs])),
        unfinished=[
            f"{run.record.name}, step {run.last_step} of {run.record.steps}"
            for group in study.groups
            for run in group.unfinished
        ],
        about=None,
    )


def _finding(results: StudyResults) -> Iterator[str]:
    if results.headline:
        first, *others = results.headline
        order = " < ".join(PAPERS_ORDER)
        yield f"{_at(first)}, the papers’ order {order} {first.outcome}."
        yield from (f"{_at(other)}, it {other.outcome}{_reversals(results)}." for other in others)
    for conditions, scaling in results.scalings[:1]:
        largest = max(scaling.losses)
        found = {
            key: one
            for key, by_budget in scaling.speed_ups.items()
            if key != BASELINE and (one := by_budget.get(largest))
        }
        if found:
            best = max(found, key=lambda key: found[key].factor)
            yield (
                f"{results.titles[best]} makes the most of data: {units.count(largest)} tokens "
                f"({conditions.settings}, {conditions.place}) are worth {_worth(found[best])}."
            )
    if not results.headline and not results.scalings:
        contests = units.plural(len(results.study.contests), "comparison")
        yield f"{contests} and {units.plural(len(results.curves), 'sweep')} over rates."


def _worth(one: SpeedUp) -> str:
    cell = show_factor(one)
    notes = [cell.detail, f"n = {units.plural(one.seeds, 'seed')}"]
    if one.is_extrapolated:
        notes.append("extrapolated")
    if not cell.is_strong:
        notes.append("not told apart from as many")
    return f"{cell.text.rstrip('†')} as many of AdamW’s ({', '.join(notes)})"


def _at(test: OrderTest) -> str:
    conditions = test.contest.conditions
    return (
        f"{'At 3e-4 for all' if conditions.is_papers_rate else 'Tuned'} ({conditions.place}, "
        f"{units.count(conditions.tokens)} tokens, n = {units.plural(test.seeds, 'seed')})"
    )


def _reversals(results: StudyResults) -> str:
    """How many pairs change places between the papers' rate and tuned."""
    headline = {test.contest.conditions for test in results.headline}
    for one in results.agreements:
        if {one.first, one.second} == headline and one.told_apart:
            return (
                f"; of the {units.plural(one.told_apart, 'pair')} of optimizers told apart at "
                f"both, {len(one.reversals)} change places"
            )
    return ""


def _cautions(results: StudyResults, runs: list[RunRecord]) -> Iterator[str]:
    outside = [curve.sweep.title for curve in results.curves if not curve.is_bottom_inside]
    if outside:
        yield (
            f"CALIBRATION FAILS for {units.listing(outside)}: the best of the rates lies at an "
            "end of the grid, so the bottom of the U is not known. Widen the grid before any "
            "of their numbers is believed."
        )
    size = max(run.model.parameters for run in runs)
    tokens = max(run.tokens for run in runs)
    texts = units.plural(len({run.data.fingerprint for run in runs}), "text")
    tier = f"{units.count(size)} parameters, {units.count(tokens)} tokens and {texts}"
    yield (
        f"No more than {tier}: no claim about {units.count(PARAMETERS)} parameters, the papers’ "
        "size, or any other."
        if size < PARAMETERS
        else f"At most {tier}: no claim about any other."
    )
    if results.too_few:
        yield (
            f"No effective-data speed-up for {'; '.join(results.too_few)}: AdamW’s curve takes "
            f"{FEWEST_BUDGETS} token budgets that share a seed."
        )
    yield from _misfits(results)
    yield from _divergences(results)
    for what, of in _MAY_DIFFER.items():
        if (kinds := len({of(run) for run in runs})) > 1:
            yield f"The runs are of {kinds} different kinds in: {what}."
    yield from results.study.notices


def _misfits(results: StudyResults) -> Iterator[str]:
    for conditions, scaling in results.scalings:
        worst = max(scaling.misfits, key=lambda factor: abs(math.log(factor)))
        if abs(math.log(worst)) > _MISFIT:
            residual = max(map(abs, scaling.residuals))
            yield (
                f"AdamW’s curve ({conditions.settings}, {conditions.place}) misses AdamW by up to "
                f"{units.number(residual, 3)} nats, which is worth {units.number(worst, 2)}× the "
                "data: the law does not hold over these budgets. The intervals of the speed-ups "
                "do not hold this error; large ones are guesses."
            )


def _divergences(results: StudyResults) -> Iterator[str]:
    for contest in results.study.contests:
        for group in contest.comparison.groups:
            if group.diverged:
                ended = len(group.diverged) + len(group.finished)
                yield (
                    f"{group.title} diverged in {len(group.diverged)} of "
                    f"{units.plural(ended, 'run')} ({contest.conditions}); no mean holds these."
                )


_MAY_DIFFER: dict[str, Callable[[RunRecord], str]] = {
    "commit": lambda run: run.commit,
    "device": lambda run: f"{run.device_count} x {run.device}",
    "versions": lambda run: str(sorted(run.versions.items())),
}


def study_report(
    folder: Path,
    *,
    out: Path | None = None,
    console: Console | None = None,
    allow_mixed: bool = False,
) -> Path:
    """Reports a study: the worth of data, the order at 3e-4 and tuned, and how orders agree.

    Writes ``index.html``, the figures (SVG and PNG), and the tables as ``tables.jsonl`` and
    ``tables.md``; prints the tables. What the study has no runs for is left out.

    Args:
      folder: Of the study, with a file of runs or a comparison's folder for each of its parts.
      out: Where the report goes; ``folder/report`` by default.
      console: Where the tables are printed; the terminal by default.
      allow_mixed: Take a part in whose runs data, model, tokens, commit or settings differ.

    Returns:
      The path of the page.

    Raises:
      ValueError: If the folder holds neither a comparison of optimizers nor a sweep over rates.
    """
    results = compute(read_study(folder, allow_mixed=allow_mixed))
    out = out or folder / "report"
    out.mkdir(parents=True, exist_ok=True)
    made = Report("Optimizer study", describe(results), _sections(results, out))
    return write(made, out, console)


def _sections(results: StudyResults, out: Path) -> list[Section]:
    """The orders and their rates first, as the papers' claim is about them; then the data."""
    sections, looks = [], results.looks
    if results.tests:
        contests = [test.contest for test in results.headline]
        drawing = figures.order_figure(contests, looks, out)
        sections.append(Section([order_table(results.tests)], [drawing]))
    for number, curves in enumerate(results.curves_by_conditions):
        drawing = figures.rates_figure(_name("rates", number), curves, looks, out)
        sections.append(Section([rates_table(_name("rates", number), curves)], [drawing]))
    if results.agreements:
        sections.append(Section([agreement_table(results.agreements)]))
    for number, (conditions, scaling) in enumerate(results.scalings):
        name = _name("speed_up", number)
        drawing = figures.speed_up_figure(name, scaling, conditions, results.titles, looks, out)
        table = speed_up_table(f"data_{name}", scaling, conditions, results.titles)
        sections.append(Section([table], [drawing]))
    if results.scalings:
        sections.append(Section([fit_table(results.scalings)]))
    return sections


def _name(key: str, number: int) -> str:
    return f"{key}_{number}" if number else key
