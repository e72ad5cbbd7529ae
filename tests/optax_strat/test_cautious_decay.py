"""Cautious weight decay, against the same in float64 NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_strat import decays, stratify
from optax_strat._decay import add_decay
from optax_strat._layers import Layers
from tests.support import trees

RATE, DECAY, STEPS = 0.1, 0.3, 5


def adam_with_cautious_decay(
    p: np.ndarray, gradients: np.ndarray, decay: float, cautious: bool = True
) -> np.ndarray:
    """θ ← θ - η (u + λ 1[u θ ≥ 0] θ) with Adam's u, in float64."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(gradients, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        u = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        p = p - RATE * (u + decay * np.where(u * p >= 0, p, 0.0) if cautious else u + decay * p)
    return p


@pytest.mark.parametrize("cautious", [True, False])
def test_entries_decay_whose_updates_shrink_them(cautious: bool) -> None:
    params = trees.model()
    gradients = trees.gradients(params, STEPS)
    tx = stratify(
        {".*": optax.scale_by_adam()},
        learning_rate=RATE,
        weight_decay=DECAY,
        cautious=cautious,
    )

    def step(carry: Any, g: Any) -> Any:
        updates, state = tx.update(g, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), None

    (after, _), _ = jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), gradients))()
    got, before, masks = map(trees.by_path, (after, params, decays(params)))
    per_step = trees.by_path(gradients)
    for path, p in before.items():
        decay = DECAY * masks[path]
        expected = adam_with_cautious_decay(p, per_step[path], decay, cautious)
        np.testing.assert_allclose(got[path], expected, rtol=2e-4, atol=2e-5, err_msg=path)


def decayed(u: Any, p: Any, **arguments: Any) -> np.ndarray:
    tx = add_decay(1.0, True, Layers(), cautious=True)
    u, p = jnp.asarray(u, **arguments), jnp.asarray(p, **arguments)
    return np.asarray(tx.update(u, tx.init(p), p)[0] - u)


def test_zero_agrees_with_either_sign() -> None:
    np.testing.assert_array_equal(decayed([0.0, 0.0, 1.0], [2.0, -2.0, 0.0]), [2.0, -2.0, 0.0])


def test_products_that_underflow_still_have_a_sign() -> None:
    np.testing.assert_array_equal(decayed([1e-5, -1e-5], [1e-5, 1e-5], dtype=jnp.float16)[1], 0)
    assert decayed([1e-5], [1e-4], dtype=jnp.float16)[0] > 0


def test_complex_entries_agree_within_a_right_angle() -> None:
    p = np.array([1 + 1j, 1 + 1j, 1 + 1j], np.complex64)
    np.testing.assert_allclose(decayed([1j, -1 - 1j, 1 - 0.5j], p), [1 + 1j, 0, 1 + 1j], atol=1e-6)


def test_its_schedule_counts_and_its_state_is_that_of_plain_decay() -> None:
    params = {"mlp": jnp.ones((2, 2)), "norm": jnp.ones(2)}
    schedule = optax.piecewise_constant_schedule(1.0, {1: 0.0})
    plain, cautious = (add_decay(schedule, None, Layers(), cautious=c) for c in (False, True))
    state = cautious.init(params)
    assert jax.tree.structure(state) == jax.tree.structure(plain.init(params))
    first, state = cautious.update(params, state, params)
    second, _ = cautious.update(params, state, params)
    np.testing.assert_array_equal(first["mlp"], 2.0)
    np.testing.assert_array_equal(second["mlp"], 1.0)
    np.testing.assert_array_equal(first["norm"], 1.0)


def test_it_asks_for_parameters() -> None:
    tx = stratify({".*": 1.0}, weight_decay=0.1, cautious=True)
    params = {"mlp": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match="params"):
        tx.update(params, tx.init(params))
