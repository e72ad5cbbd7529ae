"""What a tuning is: one experiment, a search space for each optimizer, and a number of trials.

Which trials: quasi-random points of the unit cube, by Optuna's sampler.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from dataclasses import dataclass
from typing import Annotated

import optuna
import tyro
from optuna.distributions import BaseDistribution, FloatDistribution

from train.config import named
from train.config.comparison import Comparison
from train.config.run import Experiment, RunConfig
from train.optimizers import OptimizerConfig
from train.optimizers.search_space import SearchSpace, search_space


@functools.cache
def sobol_points(count: int, dimensions: int, seed: int) -> tuple[tuple[float, ...], ...]:
    """The first points of a scrambled Sobol sequence.

    They fill the cube more evenly than random ones, and a longer sequence begins with the points of
    a shorter one. All are drawn beforehand: workers that share a study draw some twice.

    Args:
      count: How many.
      dimensions: Coordinates of each, between 0 and 1.
      seed: Scrambles the sequence.

    Example:
      >>> [point] = sobol_points(1, 3, seed=0)
      >>> len(point), all(0 <= unit < 1 for unit in point)
      (3, True)
    """
    unit_cube: dict[str, BaseDistribution] = {
        f"x{number}": FloatDistribution(0.0, 1.0) for number in range(dimensions)
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.QMCSampler(scramble=True, seed=seed)
    study = optuna.create_study(sampler=sampler)
    # The sampler takes a study's first trial at random: this one stands in for it.
    middle = dict.fromkeys(unit_cube, 0.5)
    study.add_trial(optuna.create_trial(params=middle, distributions=unit_cube, value=0.0))
    trials = [study.ask(unit_cube) for _ in range(count)]
    return tuple(tuple(trial.params[name] for name in unit_cube) for trial in trials)


@dataclass(frozen=True, kw_only=True)
class Tuning(Experiment):
    """The same number of trials, of the same steps and tokens, for every optimizer.

    No trial is pruned: who stops the poor ones early gives the others more tokens. One that has
    diverged for good ends by itself.
    """

    spaces: Annotated[tuple[SearchSpace, ...], tyro.conf.Suppress]
    """What is tuned of each optimizer."""
    trials: int = 16
    """Of each optimizer: its defaults at the papers' rate, then quasi-random points."""
    seed: int = 1000
    """Of every trial. Not one of a comparison's, which count from 0: the seed that chose the
    settings must not judge them as well."""
    sampler_seed: int = 0
    """Scrambles the quasi-random points; they are the same for all optimizers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trials < 1:
            raise ValueError(f"trials={self.trials} is not allowed: it must be at least 1.")
        if self.sampler_seed < 0:
            raise ValueError(
                f"sampler_seed={self.sampler_seed} is not allowed: it must be 0 or more."
            )
        names = [space.optimizer.key for space in self.spaces]
        if len(set(names)) < max(len(names), 1):
            raise ValueError(
                f"spaces of {', '.join(names) or 'no optimizer'} are not allowed: it must be one "
                "space for each of one or more optimizers."
            )
        self.runs()  # Each checks itself.

    def runs(self) -> dict[str, tuple[RunConfig, ...]]:
        """Every optimizer's trials by its key, the defaults first."""
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(Experiment)}
        return {
            space.optimizer.key: tuple(
                RunConfig(optimizer=optimizer, seed=self.seed, **shared)
                for optimizer in (space.default, *self._quasi_random(space))
            )
            for space in self.spaces
        }

    def _quasi_random(self, space: SearchSpace) -> list[OptimizerConfig]:
        points = sobol_points(self.trials - 1, len(space.dimensions), self.sampler_seed)
        return [space.at(point) for point in points]


def tuning_of(comparison: Comparison, trials: int = 16) -> Tuning:
    """The tuning of a comparison's optimizers, in the experiment that it compares them in.

    Of a trial the loss counts: it logs little of its way there.
    """
    shared = {
        field.name: getattr(comparison, field.name) for field in dataclasses.fields(Experiment)
    }
    spaces = tuple(search_space(one.optimizer) for one in comparison.contestants)
    sparse = {"log_every": max(comparison.steps // 20, 1), "checkpoint_every": comparison.steps}
    return Tuning(spaces=spaces, trials=trials, **shared | sparse)


def nano_tuning() -> Tuning:
    """Sixteen trials of each optimizer of the nano comparison: about half an hour on two cores."""
    return tuning_of(named.compare())
