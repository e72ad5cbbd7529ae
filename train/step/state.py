"""The state of a run, created sharded: no device ever holds more than its part."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from train.step.sharding import parameter_shardings, replicated, state_shardings
from train.tasks.task import Task


class TrainState(NamedTuple):
    """Everything that a step changes."""

    step: Array
    """Steps done, int32 scalar; also the position in the data."""
    params: Any
    """The task's parameters."""
    opt_state: Any
    """State of the Optax transformation."""


def abstract_state(
    task: Task, transformation: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Shapes, dtypes and shardings of the state, without allocating any of it."""
    shapes = jax.eval_shape(lambda: _initial(task, transformation, jax.random.key(0)))
    params = parameter_shardings(mesh, task.logical_axes, shapes.params)
    opt_state = state_shardings(transformation, shapes.params, params)
    shardings = (replicated(mesh), params, opt_state)
    placed = jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        tuple(shapes),
        shardings,
    )
    return TrainState(*placed)


def init_state(
    task: Task, transformation: optax.GradientTransformation, mesh: Mesh, seed: int
) -> TrainState:
    """The state before the first step; the same seed gives the same parameters on any mesh."""
    return _initializer(task, transformation, mesh)(jax.random.key(seed))


@functools.lru_cache(maxsize=32)  # Another seed, and another run of a program, compile nothing.
def _initializer(
    task: Task, transformation: optax.GradientTransformation, mesh: Mesh
) -> Callable[[Array], TrainState]:
    target = abstract_state(task, transformation, mesh)
    return jax.jit(
        lambda key: _initial(task, transformation, key),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, target),
        # It runs once: the random numbers of every leaf would compile longer than the train step.
        compiler_options={"xla_backend_optimization_level": 1},
    )


def state_bytes(opt_state: Any) -> int:
    """Bytes of an optimizer's state over all devices."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(opt_state))


def state_bytes_per_parameter(target: TrainState) -> float:
    """Bytes of optimizer state for each parameter, over all devices."""
    return state_bytes(target.opt_state) / optax.tree.size(target.params)


def _initial(task: Task, transformation: optax.GradientTransformation, key: Array) -> TrainState:
    params = task.init(key)
    return TrainState(jnp.zeros((), jnp.int32), params, transformation.init(params))
