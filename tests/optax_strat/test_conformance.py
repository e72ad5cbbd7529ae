"""What Optax asks of its own optimizers under jit, in loops and in wrappers, asked of ours."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec
from optax.contrib import MuonState

from optax_strat import (
    ScaleByAardvarkState,
    ScaleByStratoptState,
    aardvark,
    find_states,
    stratopt,
)
from tests.support import fast, trees
from tests.support.optimizers import CORE, OPTIMIZERS, TABLE, Factory, grads_of, keeps_half_mu
from tests.support.versions import enable_x64

every_entry = pytest.mark.parametrize("name", fast(TABLE, *CORE))
both_optimizers = pytest.mark.parametrize("factory", [stratopt, aardvark])


def small() -> Any:
    """Few leaves compile fast."""
    return {"embed": jnp.ones((4, 2)), "head": jnp.ones(3), "layers": {"mlp": jnp.ones((5, 4, 2))}}


def types(tree: Any) -> Any:
    """Each leaf's shape, dtype and, on an explicit mesh, sharding, as text that can be compared."""
    return jax.tree.map(lambda x: str(jax.typeof(x)), tree)


@every_entry
@pytest.mark.filterwarnings("ignore:No parameter is an output head")
def test_a_step_compiles_once_and_equals_the_eager_one(name: str) -> None:
    tx = TABLE[name](1e-2)
    kernel = jnp.ones((2, 4, 4))  # one shape: the eager step compiles each operation once
    params = {"layers": {"attn": kernel, "mlp": kernel}}

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
@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"]
)
def test_shapes_and_dtypes_are_stable_in_loops(name: str, dtype: str) -> None:
    """Traced, not run: lax.cond and lax.scan refuse a state that changes its type."""
    tx = TABLE[name](1e-2)
    if dtype.startswith("complex"):
        if name == "aardvark, literal":
            pytest.skip("Clipping entry by entry refuses complex gradients.")
        if keeps_half_mu(tx):
            pytest.skip("A first moment in bfloat16 holds no imaginary part, and is refused.")
    with enable_x64(dtype in ("float64", "complex128")):
        params = trees.model(dtype)

        def step(params: Any, state: Any) -> Any:
            # A tracer for a predicate, so that both branches must agree.
            good = jax.tree.leaves(params)[0].ravel()[0].real > 0
            updates, state = jax.lax.cond(
                good, lambda: tx.update(params, state, params), lambda: (params, state)
            )
            return optax.apply_updates(params, updates), state

        before = jax.eval_shape(lambda p: (p, tx.init(p)), params)
        chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(step, *before), before)


@every_entry
def test_sharding_types_are_stable_on_explicit_meshes(name: str) -> None:
    """Traced too: there a sharding is part of the type."""
    tx = TABLE[name](1e-2)
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Explicit,))
    shardings = {"embed": PartitionSpec("fsdp"), "layers": {"mlp": PartitionSpec(None, "fsdp")}}
    shardings["head"] = PartitionSpec()
    shapes = {"embed": jnp.ones((16, 2)), "head": jnp.ones((2, 3))}
    shapes["layers"] = {"mlp": jnp.ones((2, 8, 4), jnp.float16)}
    found: list[Any] = []

    def step(params: Any) -> None:
        before = tx.init(params)
        updates, after = tx.update(params, before, params)
        found.extend(map(types, (params, updates, before, after)))

    with jax.set_mesh(mesh):
        params = jax.tree.map(jax.device_put, shapes, shardings)
        jax.eval_shape(step, params)
        expected, updates, before, after = found
        assert updates == expected
        assert before == after == types(tx.init(params))
    assert "@fsdp" in expected["embed"]


@every_entry
def test_updates_keep_the_dtype_of_the_gradients(name: str) -> None:
    tx = TABLE[name](1e-2)
    params = trees.model(jnp.bfloat16)
    updates = jax.eval_shape(lambda p: tx.update(p, tx.init(p), p)[0], params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)


@pytest.mark.parametrize("name", fast(OPTIMIZERS, *CORE))
@pytest.mark.parametrize("gradient", ["float16", "bfloat16", "float32", "float64"])
def test_gradients_may_have_another_dtype_than_their_parameters(name: str, gradient: str) -> None:
    """Parameters and states keep theirs, also where parameters of several dtypes meet."""
    tx = TABLE[name](1e-2)
    with enable_x64(gradient == "float64"):
        params = small() | {"embed": jnp.ones((4, 2), jnp.bfloat16)}
        steps = optax.MultiSteps(tx, 2)

        def step(carry: Any, _: Any) -> Any:
            params, state, accumulated = carry
            g = jax.tree.map(lambda p: p.astype(gradient), params)
            updates, state = tx.update(g, state, params)
            later, accumulated = steps.update(g, accumulated, params)
            assert types(later) == types(updates)
            return (optax.apply_updates(params, updates), state, accumulated), None

        carry = jax.eval_shape(lambda p: (p, tx.init(p), steps.init(p)), params)
        jax.eval_shape(lambda carry: jax.lax.scan(step, carry, length=3)[0], carry)


@every_entry
def test_numbers_can_be_injected(name: str) -> None:
    """inject_hyperparams makes a tracer of every number: same updates, same states."""
    params = [-jnp.ones((2, 3)), jnp.ones((2, 5, 2))]
    # Whether there is a first moment cannot depend on a tracer.
    static = ("b1",) if name == "stratopt, without a first moment" else ()
    injected = optax.inject_hyperparams(TABLE[name], static)(learning_rate=1e-2)
    plain = TABLE[name](1e-2)

    @jax.jit
    def both(params: Any) -> Any:
        first = plain.update(params, plain.init(params), params)
        updates, state = injected.update(params, injected.init(params), params)
        return first, (updates, state.inner_state)

    chex.assert_trees_all_close(*both(params), rtol=1e-5, atol=1e-6)


@both_optimizers
def test_an_injected_number_can_be_changed_between_steps(factory: Factory) -> None:
    params = {"head": -jnp.ones((2, 3)), "mlp": jnp.ones((5, 2))}
    injected = optax.inject_hyperparams(factory)(1e-2)
    numbers = {"learning_rate", "b1", "b2", "eps", "weight_decay"}
    assert numbers <= set(injected.init(params).hyperparams)

    @jax.jit
    def both(params: Any, numbers: Any) -> Any:
        state = injected.init(params)
        state.hyperparams.update(numbers)
        updates, state = injected.update(params, state, params)
        plain = factory(**numbers)
        return (updates, state.inner_state), plain.update(params, plain.init(params), params)

    changed = {"learning_rate": 2e-2, "b1": 0.8, "b2": 0.9, "eps": 1e-3, "weight_decay": 0.5}
    chex.assert_trees_all_close(*both(params, changed), rtol=1e-5)


@both_optimizers
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_states_keep_their_dtypes_whatever_that_of_injected_numbers(
    factory: Factory, dtype: str
) -> None:
    injected = optax.inject_hyperparams(factory, hyperparam_dtype=jnp.dtype(dtype))(1e-2)
    for params in (small(), trees.model(jnp.bfloat16)):
        state = jax.eval_shape(injected.init, params)
        _, after = jax.eval_shape(injected.update, params, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


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
    number = TABLE[name](1e-2)
    expected, _ = jax.jit(number.update)(grads_of(params), number.init(params), params)
    np.testing.assert_allclose(first["norm"], expected["norm"], rtol=1e-6)
    np.testing.assert_array_equal(second["norm"], 0.0)


@every_entry
def test_init_is_abstract(name: str) -> None:
    tx = TABLE[name](1e-2)
    params = trees.model()
    state = tx.init(params)
    shapes = jax.eval_shape(lambda: params)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(tx.init, shapes), state)
    chex.assert_trees_all_equal_shapes_and_dtypes(tx.init(shapes), state)


@every_entry
def test_map_params_finds_the_moments_and_nothing_else(name: str) -> None:
    tx = TABLE[name](1e-2)
    state = tx.init(trees.model())
    chex.assert_trees_all_equal(optax.tree.map_params(tx, lambda x: x, state), state)
    marked = optax.tree.map_params(
        tx, lambda _: "copy", state, transform_non_params=lambda _: "other"
    )
    kinds = [ScaleByStratoptState, ScaleByAardvarkState, optax.ScaleByAdamState, MuonState]
    states = [found for kind in kinds for found in find_states(marked, kind)]
    assert len(states) == {"stratify": 1, "stratify, Muon": 2}.get(name, int(name in OPTIMIZERS))
    moments = jax.tree.leaves([(found.mu, getattr(found, "nu", ())) for found in states])
    assert set(moments) <= {"copy"}
    assert jax.tree.leaves(marked).count("copy") == len(moments)


@every_entry
def test_parameters_are_asked_for_where_they_are_needed(name: str) -> None:
    """That is where they decay; else `update` does without."""
    tx = TABLE[name](1e-2)
    params = small()
    state = jax.eval_shape(tx.init, params)
    if name in OPTIMIZERS and "literal" not in name:
        with pytest.raises(ValueError, match="params"):
            jax.eval_shape(tx.update, params, state)
    else:
        updates, _ = jax.eval_shape(tx.update, params, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
