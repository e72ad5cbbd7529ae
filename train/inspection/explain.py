"""What an optimizer will do to a model, and where each part will live: `python -m train explain`.

Nothing is trained and nothing allocated: the optimizer's settings, and the shapes and shardings of
parameters and state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

import optax_strat
from train.config.run import RunConfig
from train.step.optimizer import build_optimizer
from train.step.sharding import abstract_mesh
from train.step.state import TrainState, abstract_state, state_bytes, state_bytes_per_parameter
from train.tasks import task_of


@dataclass(frozen=True)
class Parameter:
    """One array of parameters and what happens to it."""

    path: str
    shape: tuple[int, ...]
    layer_type: str
    layers: int
    """How many layers it holds: the slices of a stacked array, or 1."""
    share: float
    """Of all parameters, from 0 to 1."""
    multiplier: float
    """Of the learning rate, for its layer type."""
    decays: bool
    """Whether weight decay applies to it."""
    sharding: tuple[str, ...]
    """The mesh axis that splits each dimension; empty where none does."""
    shape_on_device: tuple[int, ...]


@dataclass(frozen=True)
class StateField:
    """What one transformation of the optimizer's chain keeps."""

    state: str
    """The state's class, such as `ScaleByAdamState`, with those that it lies in."""
    field: str
    arrays: int
    bytes: int
    """Over all devices."""


@dataclass(frozen=True)
class Explanation:
    """A model's parameters by layer type, and the optimizer's settings and state."""

    optimizer: str
    settings: dict[str, Any]
    state_bytes_per_parameter: float
    parameters: tuple[Parameter, ...]
    state: tuple[StateField, ...]


def explain(config: RunConfig) -> Explanation:
    """Looks at a run without running it.

    Args:
      config: The run; `mesh.data` counts as 1 where it is None.

    Raises:
      ValueError: If the mesh does not divide a dimension of the model.

    Example:
      >>> from train.config.named import nano
      >>> explanation = explain(nano())
      >>> explanation.settings["b1"], [field.field for field in explanation.state][-3:]
      (0.9, ['mu', 'nu', 'count'])
      >>> first = explanation.parameters[0]
      >>> first.path, first.layer_type, first.decays
      ('embed/embedding', 'embedding', True)
    """
    transformation = build_optimizer(config.optimizer, config.schedule, config.steps).transformation
    target = abstract_state(task_of(config), transformation, abstract_mesh(config.mesh))
    return Explanation(
        optimizer=config.optimizer.key,
        settings=dataclasses.asdict(config.optimizer),
        state_bytes_per_parameter=state_bytes_per_parameter(target),
        parameters=_parameters(transformation, target, decays=config.optimizer.weight_decay > 0),
        state=tuple(_state_fields(target.opt_state)),
    )


def _state_fields(state: Any, within: tuple[str, ...] = ()) -> Iterator[StateField]:
    """The fields of all states in an optimizer's, in the order of its chain."""
    if not hasattr(state, "_fields"):  # A chain's tuple, or the groups of a partition.
        for part in _nested(state):
            yield from _state_fields(part, within)
        return
    within = (*within, type(state).__name__)
    for name, value in zip(state._fields, state, strict=True):
        arrays = jax.tree.leaves(value)
        if any(True for _ in _nested(value)):
            yield from _state_fields(value, within)
        elif arrays:
            yield StateField(" / ".join(within), name, len(arrays), state_bytes(value))


def _nested(value: Any) -> Iterator[Any]:
    """The optimizer states right inside a value; a tree of parameters holds none."""
    if hasattr(value, "_fields"):
        if not isinstance(value, optax.MaskedNode):
            yield value
    elif isinstance(value, tuple | list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _nested(item)


def _parameters(
    transformation: optax.GradientTransformation, target: TrainState, *, decays: bool
) -> tuple[Parameter, ...]:
    multipliers = _multipliers(transformation, target.params)
    rows = optax_strat.describe(target.params, multipliers=multipliers).rows
    leaves = jax.tree.leaves(target.params)
    return tuple(
        Parameter(
            path=row.path,
            shape=row.shape,
            layer_type=str(row.type),
            layers=row.layers,
            share=row.share,
            multiplier=row.multiplier,
            decays=row.decay and decays,
            sharding=tuple(_splitting(axis, leaf.sharding.mesh) for axis in leaf.sharding.spec),
            shape_on_device=leaf.sharding.shard_shape(leaf.shape),
        )
        for row, leaf in zip(rows, leaves, strict=True)
    )


def _splitting(axis: str | None, mesh: Any) -> str:
    return axis if axis and mesh.shape[axis] > 1 else ""


def _multipliers(transformation: optax.GradientTransformation, params: Any) -> dict[str, float]:
    """What the optimizer's own state says that each layer type is multiplied by; else 1."""

    def read() -> list[dict[str, jax.Array]]:
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params)
        states = transformation.init(zeros)
        kept = optax_strat.find_states(states, optax_strat.ScaleByLayerTypeState)
        return [state.multipliers for state in kept]

    # Compiled, as then no parameter is made for it.
    kept = jax.jit(read)()
    multipliers = kept[0] if kept else {"*": 1.0}
    return {kind: float(multipliers.get(kind, multipliers["*"])) for kind in optax_strat.LayerType}
