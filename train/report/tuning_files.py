"""A tuning's trials for other programs: CSV."""

from __future__ import annotations

import csv
import io

from train.report.tuning.trials import Results


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
