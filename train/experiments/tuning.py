"""A tuning: the same number of trials of every optimizer, at settings spread over its search space.

<folder>/tuning.json              what is tuned, on what
<folder>/trials/lion/3/           one trial: configuration and records, as of any run

Any number of processes, on any machines that see the folder, make the same call and share the
trials (`train.experiments.sharing`). Of each trial the records stay. Its checkpoints go when it has
ended: those of all trials together would fill the disk.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from train.config import named
from train.config.comparison import Comparison
from train.config.plain import config_hash
from train.config.run import Experiment, RunConfig
from train.experiments.sharing import (
    SILENT,
    Observer,
    SharedRun,
    claim_experiment,
    share_out,
    train_alone,
)
from train.optimizers import OptimizerConfig
from train.optimizers.search_space import SearchSpace, search_space
from train.records.files import TUNING
from train.run.folder import CHECKPOINTS, finished
from train.run.population import populations, train_population
from train.tasks import Task


@functools.cache
def sobol_points(count: int, dimensions: int, seed: int) -> tuple[tuple[float, ...], ...]:
    """The first points of a scrambled Sobol sequence.

    They fill the cube more evenly than random ones, and a longer sequence begins with the points of
    a shorter one.

    Args:
      count: How many.
      dimensions: Coordinates of each, between 0 and 1.
      seed: Scrambles the sequence.

    Example:
      >>> [point] = sobol_points(1, 3, seed=0)
      >>> [round(coordinate, 3) for coordinate in point]
      [0.851, 0.931, 0.363]
    """
    from scipy.stats import qmc  # Takes half a second, which only a tuning needs to wait for.

    # A power of 2, which the sequence fills the cube evenly at: it warns of all other numbers.
    points = qmc.Sobol(dimensions, scramble=True, seed=seed).random_base2(count.bit_length())
    return tuple(tuple(map(float, point)) for point in points[:count])


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
        return {
            space.optimizer.key: tuple(
                RunConfig(optimizer=optimizer, seed=self.seed, **self.terms)
                for optimizer in (space.default, *self._quasi_random(space))
            )
            for space in self.spaces
        }

    def _quasi_random(self, space: SearchSpace) -> list[OptimizerConfig]:
        points = sobol_points(self.trials - 1, len(space.dimensions), self.sampler_seed)
        return [space.at(point) for point in points]


def tuning_of(comparison: Comparison, trials: int = 16) -> Tuning:
    """The tuning of a comparison's optimizers, in the experiment that it compares them in.

    Of a trial only the last loss counts, so it logs little of its way there.
    """
    spaces = tuple(search_space(contestant.optimizer) for contestant in comparison.contestants)
    sparse = {"log_every": max(comparison.steps // 20, 1), "checkpoint_every": comparison.steps}
    return Tuning(spaces=spaces, trials=trials, **comparison.terms | sparse)


def nano_tuning() -> Tuning:
    """Sixteen trials of each optimizer of the nano comparison: about half an hour on two cores."""
    return tuning_of(named.compare())


def tune(tuning: Tuning, folder: Path, observer: Observer = SILENT, *, population: int = 1) -> None:
    """Does what is still missing of a tuning, together with whoever else makes the same call.

    Args:
      tuning: What to tune.
      folder: Where it goes; holds this tuning's earlier work, or nothing.
      observer: Told of every trial and step.
      population: Trials of one optimizer that are trained together, in one compiled program: the
        faster, the smaller the model. The same for all workers.

    Raises:
      ValueError: If the folder holds another tuning or a link, the configuration does not fit the
        data or the devices, or the population has no members.
      Interrupted: If a signal asked to stop; the same call goes on from there.
      DiskError: If there is no room; likewise.
    """
    if population < 1:
        raise ValueError(f"population={population} is not allowed: it must be at least 1.")
    task = claim_experiment(folder / TUNING, tuning)

    def train_group(group: Sequence[SharedRun]) -> None:
        if len(group) > 1:
            _train_together(group, task, observer)
        else:
            [trial] = group
            train_alone(trial, task, observer)
            shutil.rmtree(trial.folder / CHECKPOINTS, ignore_errors=True)

    share_out(_groups(tuning, folder, population), train_group, observer)


def _groups(tuning: Tuning, folder: Path, population: int) -> list[list[SharedRun]]:
    """Every optimizer's trial k before trial k + 1 of any, so that stopping is fair."""
    numbered = []
    for name, configs in tuning.runs().items():
        trials = [
            SharedRun(f"{name}/{number}", folder / "trials" / name / str(number), config)
            for number, config in enumerate(configs)
        ]
        alone = [[number] for number in range(len(trials))]
        for members in populations(configs, population) if population > 1 else alone:
            numbered.append((members[0], [trials[number] for number in members]))
    numbered.sort(key=lambda group: group[0])
    return [group for _, group in numbered]


def _train_together(group: Sequence[SharedRun], task: Task, observer: Observer) -> None:
    """Trains those that have not ended; all, if they have begun to train together."""

    def checkpoints_of(members: Sequence[SharedRun]) -> Path:
        hashed = config_hash(tuple(trial.config for trial in members))
        return members[0].folder.parent / f"population-{hashed}"

    members = group
    if not checkpoints_of(group).exists():
        members = [run for run in group if finished(run.folder, run.config) is None]
    train_population(
        [trial.config for trial in members],
        [trial.folder for trial in members],
        checkpoints=checkpoints_of(members),
        task=task,
        on_progress=observer.run_progress,
    )
    shutil.rmtree(checkpoints_of(members), ignore_errors=True)
