"""The minima of Optax's own convergence suites, and learning rates that take ours to them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

TOLERANCE = 3e-2
"""Optax's, relative and absolute."""

Target = tuple[Any, Any, Callable[[Any], jax.Array]]
"""Where to start, where the minimum is, and the loss."""


def parabola(dtype: Any) -> Target:
    final = jnp.array([1.0, -1.0, 1.0]) * _turned(dtype)
    return jnp.array([-1.0, 10.0, 1.0], dtype), final, lambda x: _distance(x, final)


def rosenbrock(dtype: Any) -> Target:
    a = _turned(dtype)
    return (
        jnp.zeros(2, dtype),
        jnp.array([a, a**2]),
        lambda x: _distance(a, x[0]) + 100 * _distance(x[1], x[0] ** 2),
    )


def matrix(dtype: Any) -> Target:
    final = jnp.array([[3.0, -2.0], [1.0, 4.0]], dtype)
    return jnp.zeros((2, 2), dtype), final, lambda x: _distance(x, final)


def mixed(dtype: Any) -> Target:
    final = jnp.array([1.0, -1.0, 2.0], dtype), jnp.array([[1.0, 0.0], [-1.0, 1.0]], dtype)
    return (
        jax.tree.map(jnp.zeros_like, final),
        final,
        lambda x: _distance(x[0], final[0]) + _distance(x[1], final[1]),
    )


def learning_rate(name: str) -> optax.ScalarOrSchedule:
    """A rate for an optimizer of the table.

    Optax's suites keep theirs constant, and so does Aardvark. StratOpt's α_t compares a layer only
    with its own past, so that close to a minimum any rise of a tiny gradient is a long step: its
    rates fall, as the paper's do. Without bounds on α_t they have to fall from the start.
    """
    if name.startswith("aardvark"):
        return 1e-2
    if name == "stratopt, literal":
        return lambda count: 1e-2 / (1 + count / 300)
    return optax.cosine_decay_schedule(1e-2, 10_000, alpha=0.01)


def _turned(dtype: Any) -> complex:
    """One, or for complex numbers a number off the real line."""
    return 1 + 1j if jnp.issubdtype(dtype, jnp.complexfloating) else 1.0


def _distance(x: Any, y: Any) -> jax.Array:
    difference = x - y
    return jnp.sum((difference * jnp.conj(difference)).real)
