"""Runs a study: part after part, each packed into one file of records when it has ended.

<folder>/tuning/          the tuning, as `train.tuning` leaves it
<folder>/<part>/          each comparison, as `train.experiments.compare` leaves it
<out>/<part>.jsonl        the records of a part, which is all that a report needs

The same call goes on wherever an earlier one stopped; several calls at once share the runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from train.experiments.compare import compare
from train.experiments.study import Study
from train.experiments.tune import tune
from train.experiments.tuning import Tuning, tuning_of
from train.experiments.workers import Work
from train.optimizers.settings import OptimizerConfig, key
from train.records.files import pack
from train.report.tuning.trials import load_results
from train.study.parts import comparisons

_PART = "tuning"  # the name of the first part


def run_study(
    study: Study,
    folder: Path,
    out: Path,
    *,
    share_out: Callable[[str, Work, int], None],
    only: Collection[str] = (),
) -> None:
    """Does what is still missing of a study.

    Args:
      study: What is studied.
      folder: Where the runs go; holds this study's earlier work, or nothing.
      out: Where the packed records go.
      share_out: Does a part, told its name, its work and its steps.
      only: The comparisons to run; all by default. The tuning always is.

    Raises:
      ValueError: If there is no comparison of such a name, no trial of an optimizer has a usable
        loss, or a part's folder holds another one.
      Interrupted: If a signal asked to stop; the same call goes on from there.
    """
    tuning = tuning_of(study.comparison, study.trials)
    steps = sum(run.steps for runs in tuning.runs().values() for run in runs)
    share_out(_PART, partial(tune, tuning, folder / _PART), steps)
    pack(folder / _PART, out / f"{_PART}.jsonl")
    parts = comparisons(study, tuned_optimizers(tuning, folder / _PART))
    for name in only:
        if name not in parts:
            raise ValueError(f"--only {name}: no such part; choose from {', '.join(parts)}.")
    for name, part in parts.items():
        if not only or name in only:
            steps = sum(entry.config.steps for entry in part.runs())
            share_out(name, partial(compare, part, folder / name), steps)
            pack(folder / name, out / f"{name}.jsonl")


def tuned_optimizers(tuning: Tuning, path: Path) -> tuple[OptimizerConfig, ...]:
    """Every optimizer of a tuning at the settings of its best trial, in the tuning's order.

    Args:
      tuning: What was tuned.
      path: The tuning's folder, or the file that it was packed into.

    Raises:
      ValueError: If no trial of an optimizer has a usable loss.
    """
    best = {one.group.key: one.best for one in load_results(path).tuned}
    found = []
    for space in tuning.spaces:
        trial = best[key(space.optimizer)]
        if trial is None:
            raise ValueError(
                f"no trial of {key(space.optimizer)} has a usable loss: leave it out, or widen its "
                "search space."
            )
        found.append(dataclasses.replace(space.optimizer, **trial.settings))
    return tuple(found)
