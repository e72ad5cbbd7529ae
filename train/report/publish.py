"""The results in README and documentation: made from the records, never typed.

What stands between two comments of a page is rewritten, the rest is left as it is:

    <!-- results:nano/losses -->
    <!-- /results -->

What a page may show of the results: tables in Markdown, each with what its numbers are about.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from train.records.tuning import is_tuning
from train.report.comparison import ComparedRuns, load
from train.report.comparison_tables import norms_table, results_table
from train.report.costs import costs_table, counts_table, mesh_table
from train.report.ladder import ladder_table
from train.report.pairs import pairs_table
from train.report.statistics import PERCENT
from train.report.study.parts import study_of
from train.report.study.rates import rates_table
from train.report.study.results import StudyResults, compute
from train.report.study.tables import agreement_table, fit_table, order_table, speed_up_table
from train.report.table import Table, escaped, markdown
from train.report.targets import targets_table
from train.report.tuning.tables import best_table, ranks_table, search_curves
from train.report.tuning.trials import TuningResults, load_results
from train.report.words import facts_of, finding

MISSING = "*These runs are not in the repository yet.*\n"
_LOSSES = (
    f"Mean over n seeds; ± is half of Student’s {PERCENT} interval. Losses in nats per token; the "
    "best validation loss first."
)
_COSTS = "Step times are medians with quartiles over rounds timed in turn with AdamW’s."
_DEVICE_TIME = f"Device time is the mean over n seeds, ± half of Student’s {PERCENT} interval."


def _part(table: Table, title: str, caption: str, *columns: str) -> Table:
    """Some of a table's columns."""
    chosen = tuple(column for column in table.columns if column.title in columns)
    assert len(chosen) == len(columns)
    return dataclasses.replace(table, title=title, caption=caption, columns=chosen)


def _titled(table: Table, title: str) -> Table:
    """The table without its number, which is its place in a report."""
    return dataclasses.replace(table, title=title)


OF_COMPARISON: dict[str, Callable[[ComparedRuns], Table]] = {
    "summary": lambda comparison: _part(
        results_table(comparison), "Losses and costs", f"{_LOSSES} {_COSTS}",
        "Optimizer", "n", "Val. loss", "Δ to AdamW", "Bits/byte", "Step time", "State",
    ),
    "losses": lambda comparison: _part(
        results_table(comparison), "Losses", _LOSSES,
        "Optimizer", "n", "Val. loss", "Δ to AdamW", "Train loss", "Bits/byte", "Rate",
    ),
    "costs": lambda comparison: _part(
        results_table(comparison), "Costs", f"{_COSTS} {_DEVICE_TIME}",
        "Optimizer", "n", "Step time", "Device time", "Peak memory", "State", "Skipped",
    ),
    "ladder": lambda comparison: _titled(ladder_table(comparison), "Rung by rung"),
    "pairs": lambda comparison: _titled(pairs_table(comparison), "Each against each"),
    "targets": lambda comparison: _titled(targets_table(comparison), "Until where AdamW ends"),
    "cost-sheet": costs_table,
    "cost-counts": counts_table,
    "cost-mesh": mesh_table,
    "norms": lambda comparison: _titled(norms_table(comparison), "Gradient norm by layer type"),
}  # fmt: skip
OF_TUNING: dict[str, Callable[[TuningResults], Table]] = {
    "ranks": lambda results: _titled(
        ranks_table(results, search_curves(results)), "Loss and rank by tuning budget"
    ),
    "best": lambda results: _titled(best_table(results), "The best settings found"),
}
OF_STUDY: dict[str, Callable[[StudyResults], list[Table]]] = {
    "orders": lambda study: [order_table(study.tests)] if study.tests else [],
    "best-rates": lambda study: [rates_table("rates", one) for one in study.curves_by_conditions],
    "agreements": lambda study: [agreement_table(study.agreements)] if study.agreements else [],
    "speed-ups": lambda study: [
        speed_up_table("speed_up", scaling, conditions, study.titles)
        for conditions, scaling in study.scalings
    ],
    "fits": lambda study: [fit_table(study.scalings)] if study.scalings else [],
}


class Sections:
    """The sections that pages may hold, each made when it is asked for.

    Args:
      results: The folder of packed records.
    """

    def __init__(self, results: Path) -> None:
        self._results = results
        self._comparison = cache(load)  # Many sections are of the same records.
        self._tuning = cache(load_results)
        self._study = cache(_read_study)

    def __getitem__(self, name: str) -> str:
        """One section, in Markdown; a line that says so where its records are not there.

        Args:
          name: Which records, and what of them: `nano/losses` is the losses in `nano.jsonl`, and
            `study/orders` the orders in the files of the folder `study`.

        Raises:
          ValueError: If there is no such section, or the records do not make one table.
          RecordError: If a record cannot be read.
        """
        part, _, what = name.rpartition("/")
        known = ("finding", *OF_COMPARISON, *OF_TUNING, *OF_STUDY)
        if not part or what not in known:
            raise ValueError(
                f"results:{name} is no section: write results:PART/SECTION, the part a file "
                f"without its .jsonl or a study's folder, the section one of {', '.join(known)}"
            )
        if what in OF_STUDY:
            path, source = self._results / part, f"{part}/*.jsonl"
        else:
            path, source = self._results / f"{part}.jsonl", f"{part}.jsonl"
        if not path.exists():
            return MISSING
        if what == "finding":
            return f"{escaped(finding(self._comparison(path)))}\n"
        tables, comparison = self._tables(path, what)
        conditions = f"{escaped(_conditions(comparison))} Records: `{self._results.name}/{source}`."
        return "\n".join(f"{markdown(table)}\n{conditions}\n" for table in tables) or MISSING

    def _tables(self, path: Path, what: str) -> tuple[list[Table], ComparedRuns]:
        """The tables of a section, and all runs behind them."""
        if what in OF_STUDY:
            study = self._study(path)
            return OF_STUDY[what](study), ComparedRuns(study.study.groups, None, ())
        if what in OF_TUNING:
            results = self._tuning(path)
            return [OF_TUNING[what](results)], results.comparison
        comparison = self._comparison(path)
        return [OF_COMPARISON[what](comparison)], comparison


def _read_study(folder: Path) -> StudyResults:
    """A part that cannot be read is an error: a page would not say that it is left out."""
    parts = (path for path in sorted(folder.glob("*.jsonl")) if not is_tuning(path))
    return compute(study_of(map(load, parts)))


def _conditions(comparison: ComparedRuns) -> str:
    """What the numbers are about, in a line."""
    facts = facts_of(comparison)
    said = [f"{name}: {facts[name]}." for name in ("Data", "Model", "Tokens", "Device", "Commit")]
    seeds = facts["Seeds"].split(", ")
    whole = all(len(group.losses) == len(seeds) for group in comparison.groups)
    n = f"n {'=' if whole else '≤'} {len(seeds)}"
    return " ".join([*said, f"Seeds: {', '.join(seeds)} ({n})."])


_SECTION = re.compile(r"(<!-- results:(\S+) -->\n).*?(<!-- /results -->)", re.DOTALL)


def publish(root: Path) -> list[Path]:
    """Rewrites the pages whose results are out of date, and returns them.

    Args:
      root: The repository: its `README.md` and the pages of its `docs` are made from the packed
        records in its `results`.

    Raises:
      ValueError: If a page asks for what there is not, or records do not make one table.
      RecordError: If a record cannot be read.
    """
    changed = outdated(root)
    for page, text in changed.items():
        page.write_text(text, encoding="utf-8")
    return list(changed)


def outdated(root: Path) -> dict[Path, str]:
    """The pages whose results are not those of the records, and what they should be."""
    sections = Sections(root / "results")

    def made(match: re.Match[str]) -> str:
        start, name, end = match.groups()
        return f"{start}{sections[name]}{end}"

    docs = (page for page in (root / "docs").rglob("*.md") if "_build" not in page.parts)
    found = {}
    for page in [root / "README.md", *sorted(docs)]:
        text = page.read_text(encoding="utf-8")
        current = _SECTION.sub(made, text)
        if current != text:
            found[page] = current
    return found
