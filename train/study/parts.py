"""The comparisons of a study, each the answer to one question, at the tuned settings.

Within a comparison all runs of a seed share initial parameters and batches. Between comparisons one
thing changes: the number of steps, the rates, the text, the model, or a part of an optimizer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from train.config.run import Comparison, ScheduleConfig
from train.contestants import Contestant
from train.experiments.ladders import LADDERS, ladder
from train.experiments.study import Study
from train.optimizers.search_spaces import PAPERS_RATE, search_space
from train.optimizers.settings import Aardvark, OptimizerConfig, StratOpt

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
    found |= {f"ladder-{name}": ladder(name, sparse) for name in LADDERS}
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
    """Our own optimizers with states of fewer bytes, beside those in float32."""
    if not isinstance(optimizer, StratOpt | Aardvark):
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
