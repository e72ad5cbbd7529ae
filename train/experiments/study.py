"""A study: a tuning, then comparisons at the tuned settings, each the answer to one question.

Within a comparison all runs of a seed share initial parameters and batches. Between comparisons one
thing changes: the number of steps, the rates, the text, the model, or a part of an optimizer.

<folder>/tuning/          the tuning, as `train.experiments.tuning` leaves it
<folder>/<part>/          each comparison, as `train.experiments.compare` leaves it
<out>/<part>.jsonl        the records of a part, packed when it has ended: all that a report needs

The same call goes on wherever an earlier one stopped; several calls at once share the runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from models import TransformerConfig
from train.config import named
from train.config.comparison import Comparison, Contestant
from train.config.run import ScheduleConfig
from train.data import DataConfig
from train.experiments.compare import compare
from train.experiments.ladders import LADDERS, climb
from train.experiments.tuning import Tuning, tune, tuning_of
from train.experiments.workers import Work
from train.optimizers import OptimizerConfig
from train.optimizers.search_space import PAPERS_RATE, search_space
from train.records.files import pack
from train.records.tuning import read_tuning


@dataclass(frozen=True, kw_only=True)
class Study:
    """Tunes every optimizer, then compares them at the settings found.

    Raises:
      ValueError: If a budget of steps is below 1 or given twice.
    """

    comparison: Annotated[Comparison, tyro.conf.Suppress] = field(default_factory=named.compare)
    """The experiment, and who takes part."""
    trials: int = 16
    """Of the tuning, for each optimizer."""
    budgets: tuple[int, ...] = (100, 200, 400, 800)
    """Steps of the runs that show how the loss falls with the tokens; three or more can be fitted.
    The settings are those tuned at the comparison's own steps."""
    rate_seeds: int = 2
    """Seeds of the runs at other learning rates: there are many of them."""
    larger: Annotated[TransformerConfig | None, tyro.conf.Suppress] = named.MICRO
    """A second model, at the settings tuned for the first."""
    second_text: DataConfig | None = None
    """A second text, likewise, such as `second-text:data-config --second-text.source
    parquet:train.parquet --second-text.validation-source parquet:val.parquet`."""

    def __post_init__(self) -> None:
        if min(self.budgets, default=1) < 1 or len(set(self.budgets)) < len(self.budgets):
            raise ValueError(
                f"budgets={self.budgets} are not allowed: each must be at least 1, and another."
            )


_STATES: dict[str, dict[str, Any]] = {
    "mu in bfloat16": {"mu_dtype": "bfloat16"},
    "both in bfloat16": {"mu_dtype": "bfloat16", "second_moment": "bfloat16"},
    "mu in bfloat16, nu factored": {"mu_dtype": "bfloat16", "second_moment": "factored"},
}


def comparisons(study: Study, tuned: Sequence[OptimizerConfig]) -> dict[str, Comparison]:
    """All comparisons by name, in the order in which they are run.

    Args:
      study: What is studied.
      tuned: Every optimizer at the settings that the tuning found, the baseline first.
    """
    contestants = tuple(map(Contestant, tuned))
    tuned_terms = dataclasses.replace(study.comparison, contestants=contestants)
    # Of the many runs below only the last loss is looked at.
    sparse = dataclasses.replace(
        tuned_terms,
        cost_rounds=0,
        log_every=max(tuned_terms.steps // 10, 1),
        eval_every=max(tuned_terms.steps // 2, 1),
        checkpoint_every=tuned_terms.steps,
    )
    found = {f"tokens-{steps}": of_length(tuned_terms, steps) for steps in study.budgets}
    found["papers-rate"] = _between(sparse, [_at_papers_rate(one) for one in tuned])
    found["states"] = _between(sparse, [one for each in tuned for one in _states(each)])
    found["rates"] = dataclasses.replace(
        _between(sparse, [one for each in tuned for one in _rates(each)]), seeds=study.rate_seeds
    )
    found |= {f"ladder-{name}": climb(name, sparse) for name in LADDERS}
    if study.second_text is not None:
        found["second-text"] = dataclasses.replace(sparse, data=study.second_text)
    if study.larger is not None:
        found["larger-model"] = dataclasses.replace(sparse, model=study.larger, cost_rounds=5)
    return found


def of_length(comparison: Comparison, steps: int) -> Comparison:
    """The same comparison over another number of steps, in the same proportions.

    Example:
      >>> from train.config.named import compare
      >>> twice = of_length(compare(), 800)
      >>> twice.schedule.warmup_steps, twice.eval_every
      (40, 100)
    """
    before = comparison.steps

    def scaled(interval: int) -> int:
        return max(round(interval * steps / before), 1)

    schedule = ScheduleConfig(
        scaled(comparison.schedule.warmup_steps),
        comparison.schedule.decay,
        comparison.schedule.final_fraction,
    )
    return dataclasses.replace(
        comparison,
        steps=steps,
        schedule=schedule,
        log_every=scaled(comparison.log_every),
        eval_every=scaled(comparison.eval_every),
        checkpoint_every=scaled(comparison.checkpoint_every),
        cost_rounds=comparison.cost_rounds if steps == before else 0,
    )


def _between(terms: Comparison, contestants: Sequence[Contestant]) -> Comparison:
    return dataclasses.replace(terms, contestants=tuple(contestants))


def _at_papers_rate(optimizer: OptimizerConfig) -> Contestant:
    """What the papers did: one rate for all, and nothing else tuned either."""
    return Contestant(search_space(optimizer).default)


def _rates(optimizer: OptimizerConfig) -> list[Contestant]:
    """Three rates a decade over the whole range that was tuned, the papers' among them."""
    (rates,) = (one for one in search_space(optimizer).dimensions if one.field == "learning_rate")
    grid = [float(f"{PAPERS_RATE * 10 ** (k / 3):.3g}") for k in range(-9, 10)]
    return [
        Contestant(
            dataclasses.replace(optimizer, learning_rate=rate),
            f"{type(optimizer).__name__} at {rate:g}",
        )
        for rate in grid
        if rates.holds(rate)
    ]


def _states(optimizer: OptimizerConfig) -> list[Contestant]:
    """An optimizer with states of fewer bytes, beside that in float32, if it has such settings."""
    settings = {field.name for field in dataclasses.fields(optimizer)}
    if not {"mu_dtype", "second_moment"} <= settings:
        return []
    whole = Contestant(optimizer)
    return [
        whole,
        *(
            Contestant(
                dataclasses.replace(optimizer, **options),
                f"{whole.title}, {what}",
                after=whole.name,
            )
            for what, options in _STATES.items()
        ),
    ]


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
    best = {tuned.key: tuned.best for tuned in read_tuning(path).optimizers}
    found = []
    for space in tuning.spaces:
        trial = best[space.optimizer.key]
        if trial is None:
            raise ValueError(
                f"no trial of {space.optimizer.key} has a usable loss: leave it out, or widen its "
                "search space."
            )
        found.append(dataclasses.replace(space.optimizer, **trial.settings))
    return tuple(found)
