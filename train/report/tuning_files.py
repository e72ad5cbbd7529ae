"""A tuning's numbers for other programs and for a README: CSV and Markdown."""

from __future__ import annotations

import csv
import io

from train.report.table import Table
from train.report.tuning_trials import Results


def trials_csv(results: Results) -> str:
    """Every trial that has ended, one a line: its settings and its loss.

    A trial that diverged has an infinite loss, which CSV readers know as `inf`.
    """
    fields = dict.fromkeys(
        dimension.field for tuned in results.tuned for dimension in tuned.dimensions
    )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["optimizer", "trial", *fields, "val_loss", "diverged"])
    for tuned in results.tuned:
        for trial in tuned.trials:
            settings = [trial.settings.get(field, "") for field in fields]
            outcome = [trial.loss, str(trial.run.diverged).lower()]
            writer.writerow([tuned.group.key, trial.number, *settings, *outcome])
    return text.getvalue()


def markdown(table: Table) -> str:
    """A table as GitHub shows it, with its caption."""
    head = [column.title for column in table.columns]
    rule = [":--" if column.is_text else "--:" for column in table.columns]
    rows = [[str(cell) for cell in cells] for cells in table.cells]
    lines = [" | ".join(_escaped(cell) for cell in cells) for cells in (head, *rows)]
    lines.insert(1, " | ".join(rule))
    body = "".join(f"| {line} |\n" for line in lines)
    return f"**{table.title}.** {table.caption}\n\n{body}"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
