"""What an optimizer will do to a model, and where each part will live: `python -m train explain`.

Nothing is trained and nothing allocated: shapes, shardings and the optimizer's own chain tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

import optax_strat
from train.chain import Link, links
from train.config.run import RunConfig
from train.optimizers.build import build_optimizer
from train.optimizers.settings import key
from train.step.sharding import abstract_mesh
from train.step.state import TrainState, abstract_state, state_bytes


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
class Explanation:
    """A model's strata, and the optimizer's chain in the order in which gradients pass it."""

    optimizer: str
    learning_rate: float
    state_bytes_per_parameter: float
    parameters: tuple[Parameter, ...]
    chain: tuple[Link, ...]


def explain(config: RunConfig) -> Explanation:
    """Looks at a run without running it.

    Args:
      config: The run; `mesh.data` counts as 1 where it is None.

    Raises:
      ValueError: If the mesh does not divide a dimension of the model.

    Example:
      >>> from train.config.named import nano
      >>> found = explain(nano())
      >>> [link.name for link in found.chain[0].parts]
      ['clip_by_global_norm', 'scale_by_adam', 'masked', 'scale_by_schedule']
      >>> found.parameters[0].path, found.parameters[0].layer_type, found.parameters[0].decays
      ('embed/embedding', 'embedding', True)
    """
    transformation = build_optimizer(config.optimizer, config.schedule, config.steps).transformation
    target = abstract_state(config.model, transformation, abstract_mesh(config.mesh))
    count = sum(leaf.size for leaf in jax.tree.leaves(target.params))
    return Explanation(
        optimizer=key(config.optimizer),
        learning_rate=config.optimizer.learning_rate,
        state_bytes_per_parameter=state_bytes(target.opt_state) / count,
        parameters=_parameters(transformation, target, decays=config.optimizer.weight_decay > 0),
        chain=links(transformation),
    )


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

    def found() -> list[dict[str, jax.Array]]:
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params)
        states = transformation.init(zeros)
        kept = optax_strat.find_states(states, optax_strat.ScaleByLayerTypeState)
        return [state.multipliers for state in kept]

    # Compiled, as then no parameter is made for it.
    kept = jax.jit(found)()
    multipliers = kept[0] if kept else {"*": 1.0}
    return {kind: float(multipliers.get(kind, multipliers["*"])) for kind in optax_strat.LayerType}
