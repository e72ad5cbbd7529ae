"""Which trials: quasi-random points of the unit cube, by Optuna's sampler."""

from __future__ import annotations

import functools
import warnings

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution


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
