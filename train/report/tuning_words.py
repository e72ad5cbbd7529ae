"""The words of a tuning's report, each computed from the records."""

from __future__ import annotations

from train.host import units
from train.report import words
from train.report.tuning.trials import Results
from train.report.tuning_edges import edges
from train.report.words import Summary


def describe(results: Results) -> Summary:
    """The finding, the facts and the cautions."""
    of_each = units.plural(len(results.tuned), "optimizer")
    return Summary(
        finding=_finding(results),
        facts={
            "Trials": f"{results.planned} of each of {of_each}, the same steps, data and seed",
            **words.facts_of(results.comparison),
        },
        cautions=_cautions(results),
        unfinished=[
            f"{run.record.name}, step {run.last_step} of {run.record.steps}"
            for tuned in results.tuned
            for run in tuned.group.unfinished
        ],
        about=results.comparison.about,
    )


def _finding(results: Results) -> str:
    tokens = units.count(results.comparison.runs[0].record.tokens)
    planned = results.planned * len(results.tuned)
    lead = f"With {units.plural(results.planned, 'trial')} of {tokens} tokens for each optimizer"
    if results.ended < planned:
        lead = f"Of the {results.ended} of {planned} trials that have ended so far"
    usable = [(tuned, tuned.best) for tuned in results.tuned if tuned.best]
    if not usable:
        return f"{lead}, none has a usable loss."
    tuned, best = usable[0]
    said = (
        f"{lead}, {tuned.group.title} reaches the lowest validation loss, "
        f"{units.number(best.loss, 3)}"
    )
    defaults = [(other, trial.gained) for other in results.ranked if (trial := other.default)]
    if not defaults:
        return f"{said}."
    first, loss = min(defaults, key=lambda pair: pair[1])
    return (
        f"{said}; at the defaults and the papers’ rate {first.group.title} leads, with "
        f"{units.number(loss, 3)}."
    )


def _cautions(results: Results) -> list[str]:
    runs = [run.record for run in results.comparison.runs]
    found = [
        f"One model of {units.count(min(run.model.parameters for run in runs))} parameters, one "
        "text and one seed: no claim about any other. The lowest of many losses is partly luck; "
        "compare the best settings over other seeds before calling one optimizer better."
    ]
    found += [str(edge) for tuned in results.tuned for edge in edges(tuned)]
    if any(tuned.diverged for tuned in results.tuned):
        counts = [
            f"{len(tuned.diverged)} of {len(tuned.trials)} of {tuned.group.title}"
            for tuned in results.tuned
            if tuned.diverged
        ]
        found.append(
            f"Diverged: {units.listing(counts)}. Such a trial counts with the loss that it "
            "started from."
        )
    found += [
        f"{tuned.group.title}: {len(tuned.trials)} of {results.planned} trials have ended; ranks "
        f"are at the {results.budget} that all have."
        for tuned in results.tuned
        if len(tuned.trials) < results.planned
    ]
    return [*found, *words.differing(runs), *results.comparison.notices]
