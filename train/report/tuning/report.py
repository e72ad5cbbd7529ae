"""The report of a tuning: its summary, tables and figures, from the records of its trials alone."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from train.host import units
from train.records.files import report_folder
from train.report import words
from train.report.page import Report, Section, write
from train.report.tuning.figures import draw_tuning
from train.report.tuning.tables import best_table, edges, ranks_table, search_curves, trials_csv
from train.report.tuning.trials import TuningResults, load_results
from train.report.words import Summary


def describe(results: TuningResults) -> Summary:
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
            for group in results.comparison.groups
            for run in group.unfinished
        ],
        about=results.comparison.about,
    )


def _finding(results: TuningResults) -> str:
    tokens = units.count(results.comparison.runs[0].record.tokens)
    planned = results.planned * len(results.tuned)
    lead = f"With {units.plural(results.planned, 'trial')} of {tokens} tokens for each optimizer"
    if results.ended < planned:
        lead = f"Of the {results.ended} of {planned} trials that have ended so far"
    usable = [(tuned, tuned.best) for tuned in results.tuned if tuned.best]
    if not usable:
        return f"{lead}, none has a usable loss."
    tuned, best = usable[0]
    said = f"{lead}, {tuned.title} reaches the lowest validation loss, {units.number(best.loss, 3)}"
    defaults = [(other, trial.gained) for other in results.ranked if (trial := other.default)]
    if not defaults:
        return f"{said}."
    first, loss = min(defaults, key=lambda pair: pair[1])
    return (
        f"{said}; at the defaults and the papers’ rate {first.title} leads, with "
        f"{units.number(loss, 3)}."
    )


def _cautions(results: TuningResults) -> list[str]:
    runs = [run.record for run in results.comparison.runs]
    found = [
        f"One model of {units.count(min(run.model.parameters for run in runs))} parameters, one "
        "text and one seed: no claim about any other. The lowest of many losses is partly luck; "
        "compare the best settings over other seeds before calling one optimizer better."
    ]
    found += [str(edge) for tuned in results.tuned for edge in edges(tuned)]
    if any(tuned.diverged for tuned in results.tuned):
        counts = [
            f"{len(tuned.diverged)} of {len(tuned.trials)} of {tuned.title}"
            for tuned in results.tuned
            if tuned.diverged
        ]
        found.append(
            f"Diverged: {units.listing(counts)}. Such a trial counts with the loss that it "
            "started from."
        )
    found += [
        f"{tuned.title}: {len(tuned.trials)} of {results.planned} trials have ended; ranks "
        f"are at the {results.budget} that all have."
        for tuned in results.tuned
        if len(tuned.trials) < results.planned
    ]
    return [*found, *words.differing(runs), *results.comparison.notices]


def tuning_report(
    path: Path,
    *,
    out: Path | None = None,
    console: Console | None = None,
    allow_mixed: bool = False,
) -> Path:
    """Reports a tuning, finished or not.

    Writes ``index.html``, ``figure1`` and ``figure2`` (SVG and PNG), the tables as ``tables.jsonl``
    and ``tables.md``, and every trial in ``trials.csv``; prints the tables.

    Args:
      path: The tuning's folder, or the file that it was packed into.
      out: Where the report goes; by default as `report_folder` says.
      console: Where the tables are printed; the terminal by default.
      allow_mixed: Take trials of different data, model, tokens or commit into one table.

    Returns:
      The path of the page.

    Raises:
      ValueError: If there are no trials, or some that do not belong into one table.
      RecordError: If a record cannot be read; the message names the file and the line.
    """
    results = load_results(path, allow_mixed=allow_mixed)
    out = out or report_folder(path)
    out.mkdir(parents=True, exist_ok=True)
    curves = search_curves(results)
    tables = [ranks_table(results, curves), best_table(results)] if curves else []
    made = Report(
        title="Optimizer tuning",
        summary=describe(results),
        sections=[Section(tables), Section(drawings=draw_tuning(results, curves, out))],
        about=("What was tuned (tuning.json)", results.comparison.about or ""),
        files={"trials.csv": trials_csv(results)},
        runs="trials",
    )
    return write(made, out, console)
