"""Whether a transformation gives directions or descends by itself, found by trying it out.

``optax.scale_by_adam()`` points along the gradient, ``optax.adam(0.1)`` against it. Multiplied by
minus a learning rate, the first descends and the second climbs, and nothing in their types tells
one from the other.
"""

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

_STEPS = 4
"""Enough for a warm-up from zero to have begun."""

_MOST_STEPS = 64
"""While all updates are zero: for accumulations, and for schedules that begin with zeros."""

_EXTRA_ARGS: tuple[dict[str, float], ...] = ({"value": 1.0}, {})
"""A loss, for what computes a step size of it; none, for what takes other arguments alone."""

_SHAPE = (8, 8)

_found: weakref.WeakKeyDictionary[Callable[..., Any], int] = weakref.WeakKeyDictionary()
"""Verdicts by update function: ``inject_hyperparams`` builds an optimizer anew at every step."""


def sign_of(transform: optax.GradientTransformation, names: Iterable[str]) -> int:
    """1 where updates go along the gradient, -1 where they go against it, 0 where nothing tells.

    Args:
      transform: the transformation to try, on one small matrix for a few steps.
      names: what the matrix may be called, for transformations that look at names.
    """
    try:
        known = _found.get(transform.update)
    except TypeError:  # not every callable can be a key
        return _first_verdict(transform, names)
    if known is None:
        known = _first_verdict(transform, names)
        with contextlib.suppress(TypeError):  # nor can all be referred to weakly
            _found[transform.update] = known
    return known


def _first_verdict(transform: optax.GradientTransformation, names: Iterable[str]) -> int:
    for name, extra_args in itertools.product(names, _EXTRA_ARGS):
        try:
            return _try(transform, name, extra_args)
        # Whatever it needs and does not get (an extra argument, names of its own, a tracer from
        # the function around, a backend): this is a courtesy, and no reason to refuse it.
        except Exception:
            continue
    return 0


def _try(transform: optax.GradientTransformation, name: str, extra_args: dict[str, float]) -> int:
    transform = optax.with_extra_args_support(transform)
    # Without jit, loops are Python's and run operations that are compiled once in a process; a
    # program for each transformation would take JAX longer, and Newton-Schulz seconds.
    with jax.ensure_compile_time_eval(), jax.disable_jit():
        gradient = np.random.default_rng(0).normal(size=_SHAPE)
        gradients = {name: {"kernel": jnp.asarray(gradient, jnp.float32)}}
        # Small, so that a decay in it does not decide; not zero, for trust ratios.
        params = {name: {"kernel": jnp.full(_SHAPE, 1e-3, jnp.float32)}}
        state = transform.init(params)
        total = np.zeros(_SHAPE)
        for step in range(_MOST_STEPS):
            if step >= _STEPS and total.any():
                break
            updates, state = transform.update(gradients, state, params, **extra_args)
            total += np.asarray(updates[name]["kernel"], np.float64)
        along = np.sum(total * gradient)
        size = np.linalg.norm(total) * np.linalg.norm(gradient)
    # Noise in the updates turns them a little either way, by about 1/8 in 64 dimensions.
    return int(np.sign(along)) if abs(along) > 0.3 * size else 0
