"""What Optax asks of its own optimizers under jit, in loops and in wrappers, asked of ours."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_strat import aardvark, stratopt
from tests import trees
from tests.optimizers import OPTIMIZERS, TABLE, Factory, grads_of

every_entry = pytest.mark.parametrize("name", TABLE)


@every_entry
def test_a_step_compiles_once_and_equals_the_eager_one(name: str) -> None:
    tx = TABLE[name](1e-2)
    params = {
        "embed": jnp.ones((4, 2)),
        "head": jnp.ones(3),
        "layers": {"mlp": jnp.ones((2, 4, 2))},
    }

    def step(params: Any, state: Any, g: Any) -> Any:
        updates, state = tx.update(g, state, params, unexpected=1)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1))
    eager = step(params, tx.init(params), grads_of(params))
    jitted = compiled(jax.tree.map(jnp.copy, params), tx.init(params), grads_of(params))
    chex.assert_trees_all_close(jitted, eager, rtol=1e-5, atol=1e-7)
    compiled(*jitted, grads_of(params))
    assert compiled._cache_size() == 1


@every_entry
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_shapes_and_dtypes_are_stable_in_loops(name: str, dtype: str) -> None:
    """Traced, not run: lax.cond and lax.scan refuse a state that changes its type."""
    tx = TABLE[name](1e-2)
    with jax.enable_x64(dtype == "float64"):
        params = trees.model(dtype)

        def step(params: Any, state: Any) -> Any:
            # A tracer for a predicate, so that both branches must agree.
            good = jax.tree.leaves(params)[0].ravel()[0] > 0
            updates, state = jax.lax.cond(
                good, lambda: tx.update(params, state, params), lambda: (params, state)
            )
            return optax.apply_updates(params, updates), state

        before = jax.eval_shape(lambda p: (p, tx.init(p)), params)
        chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(step, *before), before)


@every_entry
def test_updates_keep_the_dtype_of_the_gradients(name: str) -> None:
    tx = TABLE[name](1e-2)
    params = trees.model(jnp.bfloat16)
    updates = jax.eval_shape(lambda p: tx.update(p, tx.init(p), p)[0], params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)


@every_entry
def test_numbers_can_be_injected(name: str) -> None:
    """inject_hyperparams makes a tracer of every number: same updates, same states."""
    params = [-jnp.ones((2, 3)), jnp.ones((2, 5, 2))]
    plain, injected = TABLE[name](1e-2), optax.inject_hyperparams(TABLE[name])(learning_rate=1e-2)

    @jax.jit
    def both(params: Any) -> Any:
        first = plain.update(params, plain.init(params), params)
        updates, state = injected.update(params, injected.init(params), params)
        return first, (updates, state.inner_state)

    chex.assert_trees_all_close(*both(params), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factory", [stratopt, aardvark])
def test_all_numeric_arguments_can_be_injected(factory: Factory) -> None:
    params = [-jnp.ones((2, 3)), jnp.ones((2, 5, 2))]
    plain = factory(1e-2)
    injected = optax.inject_hyperparams(factory)(1e-2)
    state = injected.init(params)
    assert {"learning_rate", "b1", "b2", "eps", "weight_decay"} <= set(state.hyperparams)
    updates, _ = jax.jit(injected.update)(params, state, params)
    expected, _ = jax.jit(plain.update)(params, plain.init(params), params)
    chex.assert_trees_all_close(updates, expected, rtol=1e-5)


@every_entry
def test_gradients_can_be_accumulated(name: str) -> None:
    tx = TABLE[name](1e-2)
    steps = optax.MultiSteps(tx, every_k_schedule=2)
    params = {"embed": jnp.ones((2, 2)), "head": jnp.ones((2, 2))}

    @jax.jit
    def run(params: Any) -> Any:
        g = grads_of(params)
        first, state = steps.update(g, steps.init(params), params)
        second, _ = steps.update(jax.tree.map(lambda x: 3 * x, g), state, params)
        whole, _ = tx.update(jax.tree.map(lambda x: 2 * x, g), tx.init(params), params)
        return first, second, whole

    first, second, whole = run(params)
    np.testing.assert_array_equal(first["head"], 0.0)
    chex.assert_trees_all_close(second, whole, rtol=1e-5)


@every_entry
def test_schedules_are_followed(name: str) -> None:
    schedule = optax.piecewise_constant_schedule(1e-2, {1: 0.0})
    tx = TABLE[name](schedule)
    params = {"norm": jnp.ones(3)}
    state = tx.init(params)
    update = jax.jit(tx.update)
    first, state = update(grads_of(params), state, params)
    second, _ = update(grads_of(params), state, params)
    assert bool(jnp.all(first["norm"] != 0))
    np.testing.assert_array_equal(second["norm"], 0.0)


@every_entry
def test_init_is_abstract_and_map_params_finds_the_parameters_copies(name: str) -> None:
    tx = TABLE[name](1e-2)
    params = trees.model()
    state = tx.init(params)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(tx.init, params), state)
    chex.assert_trees_all_equal(optax.tree.map_params(tx, lambda x: x, state), state)
    masked = lambda x: isinstance(x, optax.MaskedNode)  # noqa: E731
    marked = optax.tree.map_params(
        tx,
        lambda x, p: x if masked(x) else ("copy", x.shape == p.shape),
        state,
        params,
        transform_non_params=lambda _: "other",
        is_leaf=masked,
    )
    found = jax.tree.leaves(marked, is_leaf=lambda x: isinstance(x, tuple) and x[:1] == ("copy",))
    copies = [x for x in found if x != "other"]
    assert all(same for _, same in copies)
    moments = 2 if name in OPTIMIZERS or name == "stratify" else 0
    assert len(copies) == moments * len(jax.tree.leaves(params))
