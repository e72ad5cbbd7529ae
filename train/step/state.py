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

import models
from train.step.sharding import parameter_shardings, replicated, state_shardings


class TrainState(NamedTuple):
    """Everything that a step changes."""

    step: Array
    """Steps done, int32 scalar; also the position in the data."""
    params: Any
    """Parameters, float32, layers stacked on a leading dim."""
    opt_state: Any
    """State of the Optax transformation."""


def abstract_state(
    config: models.TransformerConfig, transformation: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Shapes, dtypes and shardings of the state, without allocating any of it."""
    shapes = jax.eval_shape(lambda: _initial(config, transformation, jax.random.key(0)))
    params = parameter_shardings(mesh, models.logical_axes(config), shapes.params)
    opt_state = state_shardings(transformation, shapes.params, params)
    shardings = (replicated(mesh), params, opt_state)
    placed = jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        tuple(shapes),
        shardings,
    )
    return TrainState(*placed)


def init_state(
    config: models.TransformerConfig,
    transformation: optax.GradientTransformation,
    mesh: Mesh,
    seed: int,
) -> TrainState:
    """The state before the first step; the same seed gives the same parameters on any mesh."""
    return _initializer(config, transformation, mesh)(jax.random.key(seed))


@functools.lru_cache(maxsize=32)  # Another seed, and another run of a program, compile nothing.
def _initializer(
    config: models.TransformerConfig, transformation: optax.GradientTransformation, mesh: Mesh
) -> Callable[[Array], TrainState]:
    target = abstract_state(config, transformation, mesh)
    return jax.jit(
        lambda key: _initial(config, transformation, key),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, target),
        # It runs once: the random numbers of every leaf would compile longer than the train step.
        compiler_options={"xla_backend_optimization_level": 1},
    )


def state_bytes(opt_state: Any) -> int:
    """Bytes of an optimizer's state over all devices."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(opt_state))


def _initial(
    config: models.TransformerConfig, transformation: optax.GradientTransformation, key: Array
) -> TrainState:
    params = models.init(config, key)
    return TrainState(jnp.zeros((), jnp.int32), params, transformation.init(params))
