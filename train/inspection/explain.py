"""What an optimizer will do to a model, and where each part will live: `python -m train explain`.

Nothing is trained and nothing allocated: shapes, shardings and the optimizer's own chain tell.

What an Optax transformation is made of, in the order in which gradients pass through it.

Optax builds transformations out of closures, so the parts of a finished one and their numbers can
be read off the functions themselves: what is shown is what runs, and not what a table says of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

import optax_strat
from train.config.run import RunConfig
from train.step.optimizer import build_optimizer
from train.step.sharding import abstract_mesh
from train.step.state import TrainState, abstract_state, state_bytes
from train.tasks import task_of

_TRANSPARENT = ("with_extra_args_support", "inferred_update", "_unless_empty")
"""What these make passes everything on to one other transformation."""

_FUNCTIONS = ("mask", "b1", "b2", "b3", "alpha", "weight_decay", "step_size_fn")
"""Settings that may be functions; other functions in a closure are helpers of the code."""


@dataclass(frozen=True)
class Link:
    """One part of a chain."""

    name: str
    """Of the function that made it, such as `scale_by_adam`; of a group, its label."""
    settings: dict[str, float | str]
    """Its numbers and words; a function, such as a schedule, stands as the name of its maker."""
    parts: tuple[Link, ...] = ()
    """The links that it applies, in order."""


def links(transformation: optax.GradientTransformation) -> tuple[Link, ...]:
    """Reads a transformation's parts off its update function.

    Args:
      transformation: Any of Optax's or of ours, or one that is built as they are. One that is built
        otherwise is a single link.

    Returns:
      The links in order; chains within chains are taken apart.

    Example:
      >>> clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
      >>> [(link.name, link.settings) for link in links(clipped)]
      [('clip_by_global_norm', {'max_norm': 1.0}), ('scale', {'step_size': -0.1})]
    """
    return _links(transformation.update)


def _links(update: Callable[..., Any]) -> tuple[Link, ...]:
    name, held = _maker(update), _held(update)
    if name == "identity":
        return ()
    if name == "chain":
        return tuple(link for part in held["update_fns"] for link in _links(part))
    inner = [value for value in held.values() if isinstance(value, optax.GradientTransformation)]
    if name in _TRANSPARENT and len(inner) == 1:
        return links(inner[0])
    groups = [value for value in held.values() if isinstance(value, Mapping)]
    parts = (*(link for part in inner for link in links(part)), *_groups(groups))
    settings = {key: _show(value) for key, value in held.items() if _is_setting(key, value)}
    return (Link(name.strip("_"), settings, tuple(parts)),)


def _groups(mappings: list[Mapping[Any, Any]]) -> list[Link]:
    return [
        Link(str(label), {}, links(part))
        for mapping in mappings
        for label, part in mapping.items()
        if isinstance(part, optax.GradientTransformation)
    ]


def _held(function: Callable[..., Any]) -> Mapping[str, Any]:
    return inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}


def _is_setting(key: str, value: Any) -> bool:
    if callable(value):
        return key in _FUNCTIONS
    return isinstance(value, float | int | str) or (type(value) is tuple and key != "update_fns")


def _show(value: Any) -> float | str:
    if callable(value):
        return _maker(value).strip("_")
    return value if isinstance(value, float | int | str) else str(value)


def _maker(function: Callable[..., Any]) -> str:
    """The outermost function in whose body a closure was made, or its own name."""
    return getattr(function, "__qualname__", type(function).__name__).partition(".")[0]


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
    target = abstract_state(task_of(config), transformation, abstract_mesh(config.mesh))
    count = sum(leaf.size for leaf in jax.tree.leaves(target.params))
    return Explanation(
        optimizer=config.optimizer.key,
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
