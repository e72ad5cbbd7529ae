"""Every optimizer reaches the minima of Optax's own convergence suites, within its tolerance."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from tests.support import fast, targets
from tests.support.optimizers import COMPLEX, CORE, OPTIMIZERS, TABLE


def every(*choices: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("target", choices, ids=lambda target: target.__name__)


@pytest.mark.parametrize("name", fast(OPTIMIZERS, *CORE))
@every(targets.parabola, targets.rosenbrock, targets.matrix, targets.mixed)
def test_it_converges_and_stays(target: Any, name: str) -> None:
    assert last_errors(name, *target(jnp.float32)) < targets.TOLERANCE


@pytest.mark.parametrize("name", fast(COMPLEX, *CORE))
@every(targets.parabola, targets.rosenbrock)
def test_complex_parameters_converge_too(target: Any, name: str) -> None:
    assert last_errors(name, *target(jnp.complex64)) < targets.TOLERANCE


def last_errors(name: str, start: Any, final: Any, loss: Any) -> float:
    """The largest error of any parameter in the last 500 of 10,000 steps."""
    tx = TABLE[name](targets.learning_rate(name))

    def step(carry: Any, _: Any) -> tuple[Any, jax.Array]:
        # JAX's gradients of complex parameters point uphill only once conjugated.
        g = jax.tree.map(jnp.conj, jax.grad(loss)(carry[0]))
        updates, state = tx.update(g, carry[1], carry[0])
        params = optax.apply_updates(carry[0], updates)
        errors = jax.tree.map(
            lambda x, y: jnp.max(jnp.abs(x - y) / (1 + jnp.abs(y))), params, final
        )
        return (params, state), jnp.max(jnp.stack(jax.tree.leaves(errors)))

    run = jax.jit(lambda: jax.lax.scan(step, (start, tx.init(start)), length=10_000)[1])
    return float(jnp.max(run()[-500:]))
