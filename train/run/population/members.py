"""In what the members of a population may differ: seeds, and the numbers of their optimizers.

A compiled program takes those numbers as arguments, so they are unknown while it is traced. All
else decides what the program is, and must agree: the kind of the optimizer, choices, whole numbers,
whether a part is switched off, and the rest of the run.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from train.config.plain import first_difference, to_dict
from train.config.run import RunConfig, ScheduleConfig
from train.optimizers import OptimizerConfig
from train.step.optimizer import build_optimizer


def settings(optimizer: OptimizerConfig) -> dict[str, Any]:
    """What an optimizer's configuration sets, by name; a part that is switched off sets nothing.

    Example:
      >>> from train.optimizers import StratOpt
      >>> {name: value for name, value in settings(StratOpt()).items() if "scale" in name}
      {'scale_bounds/0': 0.1, 'scale_bounds/1': 10.0}
    """
    named, _ = jax.tree.flatten_with_path(vars(optimizer))
    return {_name(path): value for path, value in named}


def with_numbers(optimizer: OptimizerConfig, numbers: Mapping[str, Any]) -> OptimizerConfig:
    """An optimizer's configuration with some numbers replaced, which may be tracers.

    Args:
      optimizer: The configuration.
      numbers: By name, as `settings` names them.

    Example:
      >>> from train.optimizers import StratOpt
      >>> changed = with_numbers(StratOpt(), {"b2": 0.98, "scale_bounds/1": 2.0})
      >>> changed.b2, changed.scale_bounds
      (0.98, (0.1, 2.0))
    """
    named, treedef = jax.tree.flatten_with_path(vars(optimizer))
    values = [numbers.get(_name(path), value) for path, value in named]
    return dataclasses.replace(optimizer, **jax.tree.unflatten(treedef, values))


@functools.lru_cache(maxsize=256)
def free_numbers(optimizer: OptimizerConfig) -> tuple[str, ...]:
    """The names of the numbers that members may differ in.

    Those are all floats, but for the few that the optimizer computes with before there is a
    program: it cannot be built around one that is unknown.

    Example:
      >>> from train.optimizers import Aardvark, Lion
      >>> free_numbers(Lion())
      ('b1', 'b2', 'clip', 'learning_rate', 'weight_decay')
      >>> "head" in free_numbers(Aardvark(scaling="normalized"))  # The mean is taken in Python.
      False
    """
    floats = (name for name, value in settings(optimizer).items() if isinstance(value, float))
    return tuple(name for name in floats if _may_be_unknown(optimizer, name))


def differing_numbers(optimizers: Sequence[OptimizerConfig]) -> dict[str, np.ndarray]:
    """The numbers that differ between members, float32 of shape (members,), by name.

    Those that agree stay in the configuration, where the compiler folds them into the program as
    it does for a run of its own.

    Args:
      optimizers: Configurations that agree in everything but their free numbers.

    Example:
      >>> from train.optimizers import Lion
      >>> differing_numbers([Lion(b1=0.5), Lion(b1=0.75)])
      {'b1': array([0.5 , 0.75], dtype=float32)}
    """
    rows = [settings(optimizer) for optimizer in optimizers]
    columns = {name: [row[name] for row in rows] for name in free_numbers(optimizers[0])}
    return {
        name: np.array(values, np.float32)
        for name, values in columns.items()
        if len(set(values)) > 1
    }


def check_together(configs: Sequence[RunConfig]) -> None:
    """Refuses runs that cannot share a program, or of which one could not train alone.

    Raises:
      ValueError: Naming the first setting that must agree and does not, or that is out of its
        range, which a program would not notice.
    """
    if not configs:
        raise ValueError("a population has no members: give it at least one run.")
    for config in configs:
        build_optimizer(config.optimizer, config.schedule, config.steps)
    first, *others = configs
    for other in others:
        if _common(other) != _common(first):
            raise ValueError(
                f"these runs cannot train together ({_difference(first, other)}): members of a "
                "population differ only in their seeds and in numbers of their optimizers; "
                "`populations` sorts runs."
            )


def populations(configs: Sequence[RunConfig], size: int) -> list[list[int]]:
    """Deals runs out into populations.

    Args:
      configs: Any runs.
      size: The most members of a population.

    Returns:
      The positions in `configs` of the members of each population, in their order.

    Raises:
      ValueError: If the size is below 1.

    Example:
      >>> from train.config.named import compare_quick
      >>> # Eight optimizers on seed 0, then on seed 1, then on 2.
      >>> runs = [entry.config for entry in compare_quick().runs()]
      >>> populations(runs, size=2)[:3]
      [[0, 8], [16], [1, 9]]
    """
    if size < 1:
        raise ValueError(f"a population of size={size} has no members: take at least 1.")
    alike: dict[RunConfig, list[int]] = {}
    for position, config in enumerate(configs):
        alike.setdefault(_common(config), []).append(position)
    return [
        positions[start : start + size]
        for positions in alike.values()
        for start in range(0, len(positions), size)
    ]


def _common(config: RunConfig) -> RunConfig:
    """The run without what members may differ in: equal for runs that can train together."""
    same = dict.fromkeys(free_numbers(config.optimizer), 1.0)
    return dataclasses.replace(config, optimizer=with_numbers(config.optimizer, same), seed=0)


def _difference(first: RunConfig, other: RunConfig) -> str | None:
    """The first setting in which two runs that cannot train together differ."""
    ours, theirs = type(first.optimizer).__name__, type(other.optimizer).__name__
    if ours != theirs:
        return f"optimizer: {ours} here, {theirs} there"
    values, free = settings(first.optimizer), free_numbers(other.optimizer)
    same = {name: values[name] for name in free if name in values}
    alike = dataclasses.replace(
        other, optimizer=with_numbers(other.optimizer, same), seed=first.seed
    )
    return first_difference(to_dict(first), to_dict(alike))


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _may_be_unknown(optimizer: OptimizerConfig, name: str) -> bool:
    def build(number: Any) -> Any:
        build_optimizer(with_numbers(optimizer, {name: number}), ScheduleConfig(), steps=1)
        return number

    try:
        jax.eval_shape(build, 1.0)
    except (jax.errors.ConcretizationTypeError, ValueError):
        return False
    return True
