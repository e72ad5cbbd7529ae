"""Steps whose gradients are not finite."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from optax_strat import (
    NonfiniteError,
    RepairNonfiniteState,
    ScaleByStratoptState,
    SkipCounts,
    SkipNonfiniteState,
    aardvark,
    find_states,
    learning_rate_of,
    raise_if_stuck,
    read_statistics,
    record_statistics,
    repair_nonfinite,
    skip_counts,
    skip_nonfinite,
    stratopt,
)
from tests.support import trees
from tests.support.donated import traffic

SCHEDULE = optax.linear_schedule(1e-2, 1e-3, 100)

GUARDED = {
    "adamw": lambda: skip_nonfinite(optax.adamw(SCHEDULE)),
    "aardvark": lambda: aardvark(SCHEDULE),
    "aardvark, adaptive": lambda: aardvark(SCHEDULE, scaling="adaptive"),
    "stratopt": lambda: stratopt(SCHEDULE, nonfinite="skip"),
    "stratopt, wrapped": lambda: skip_nonfinite(stratopt(SCHEDULE)),
    "in a chain": lambda: optax.chain(optax.identity(), aardvark(SCHEDULE)),
}

MIXED = {
    "scalar": np.float32(1.0).reshape(()),
    "vector": np.ones(5, np.float32),
    "stack": np.ones((2, 3, 2), np.float32),
}
GUARDED_ADAM = skip_nonfinite(optax.adam(0.1))


@jax.jit
def step_of_adam(params: Any, g: Any) -> tuple[Any, Any]:
    updates, state = GUARDED_ADAM.update(g, GUARDED_ADAM.init(params), params)
    return optax.apply_updates(params, updates), state


def spoil(tree: Any, value: float) -> Any:
    """The tree with one entry of one leaf replaced."""
    leaves, treedef = jax.tree.flatten(tree)
    leaves[3] = leaves[3].at[(0,) * leaves[3].ndim].set(value)
    return jax.tree.unflatten(treedef, leaves)


def as_bits(tree: Any) -> list[bytes]:
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", GUARDED)
def test_a_bad_step_leaves_parameters_moments_counts_and_schedules_bit_identical(name: str) -> None:
    tx = GUARDED[name]()
    params = trees.model()
    params["final_norm"]["scale"] = params["final_norm"]["scale"].at[0].set(-0.0)

    @jax.jit
    def step(params: Any, state: Any, g: Any) -> tuple[Any, Any]:
        updates, state = tx.update(g, state, params)
        return optax.apply_updates(params, updates), state

    params, state = step(params, tx.init(params), trees.model(seed=1))
    params["final_norm"]["scale"] = params["final_norm"]["scale"].at[0].set(-0.0)
    before = params, find_states(state, SkipNonfiniteState)[0].inner_state
    for bad in (jnp.nan, jnp.inf, -jnp.inf, 1e30):  # the square of 1e30 overflows
        params, state = step(params, state, spoil(trees.model(seed=2), bad))
    after = params, find_states(state, SkipNonfiniteState)[0].inner_state
    assert as_bits(after) == as_bits(before)
    assert skip_counts(state) == SkipCounts(total=4, consecutive=4)

    # And the next good step is the one that would have been next.
    params, state = step(params, state, trees.model(seed=3))
    assert skip_counts(state) == SkipCounts(total=4, consecutive=0)
    clean, clean_state = step(trees.model(), tx.init(params), trees.model(seed=1))
    clean["final_norm"]["scale"] = clean["final_norm"]["scale"].at[0].set(-0.0)
    expected, _ = step(clean, clean_state, trees.model(seed=3))
    del expected["final_norm"], params["final_norm"]  # its first entry was set by hand before
    chex.assert_trees_all_close(params, expected, rtol=1e-6)


def test_it_never_gives_up() -> None:
    """Unlike optax.apply_if_finite, which from its limit on applies the NaN."""
    params = jnp.ones(2)
    bad = jnp.array([jnp.nan, 1.0])

    def after(tx: optax.GradientTransformation, steps: int) -> Any:
        def step(carry: Any, _: Any) -> tuple[Any, None]:
            updates, state = tx.update(bad, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=steps)[0]

    theirs, _ = after(optax.apply_if_finite(optax.sgd(0.1), 3), 5)
    assert bool(jnp.isnan(theirs).any())
    ours, state = after(skip_nonfinite(optax.sgd(0.1), max_consecutive=3), 50)
    np.testing.assert_array_equal(ours, params)
    assert skip_counts(state) == SkipCounts(50, 50)


def test_too_many_in_a_row_are_a_named_error() -> None:
    tx = skip_nonfinite(optax.sgd(0.1), max_consecutive=3)
    state = tx.init(jnp.ones(2))
    bad, good = jnp.full(2, jnp.nan), jnp.ones(2)
    for g in (bad, bad, good, bad, bad):
        _, state = tx.update(g, state)
        raise_if_stuck(state)
    _, state = tx.update(bad, state)
    with pytest.raises(NonfiniteError, match="3 steps in a row, 5 in all, and the limit is 3"):
        raise_if_stuck(state)


def test_counts_are_found_wherever_the_guard_is() -> None:
    guarded = skip_nonfinite(optax.adam(0.1), max_consecutive=7)
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    bad = jax.tree.map(lambda x: x * jnp.nan, params)
    for tx in (
        optax.chain(optax.identity(), guarded),
        optax.masked(guarded, {"a": True, "b": False}),
        optax.MultiSteps(guarded, 1).gradient_transformation(),
        optax.inject_hyperparams(lambda rate: skip_nonfinite(optax.adam(rate)))(rate=0.1),
    ):
        _, state = tx.update(bad, tx.init(params), params)
        assert skip_counts(state) == (1, 1)
        assert raise_if_stuck(jax.device_get(state)) == (1, 1)


@pytest.mark.parametrize("pure", [False, True])
def test_everything_is_found_in_the_mappings_that_nnx_makes_of_states(pure: bool) -> None:
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    tx = record_statistics(
        skip_nonfinite(stratopt(0.1, layers=lambda tree: jax.tree.map(lambda _: "mlp", tree)), 2),
        layers=lambda tree: jax.tree.map(lambda _: "mlp", tree),
    )
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    good = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))  # the model's own would move
    bad = jax.tree.map(lambda p: p * jnp.nan, good)

    def state() -> Any:
        return nnx.to_pure_dict(nnx.state(optimizer)) if pure else nnx.state(optimizer)

    optimizer.update(model, good)
    assert skip_counts(state()) == (0, 0)
    assert float(learning_rate_of(state())) == np.float32(0.1)
    (inner,) = find_states(state(), ScaleByStratoptState)
    np.testing.assert_array_equal(inner.alpha, optimizer.opt_state.inner_state.inner_state[0].alpha)
    statistics = read_statistics(state())
    expected = optax.tree.norm(good)
    np.testing.assert_allclose(
        sum(x**2 for x in statistics["gradient"].values()), expected**2, 1e-5
    )
    for _ in range(2):
        optimizer.update(model, bad)
    assert skip_counts(state()) == (2, 2)
    with pytest.raises(NonfiniteError, match="2 steps in a row"):
        raise_if_stuck(state())


def test_a_mapping_with_other_fields_is_no_state_of_ours() -> None:
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.masked(optax.adam(0.1), True), wrt=nnx.Param)
    with pytest.raises(ValueError, match="contains no guard"):
        skip_counts(nnx.state(optimizer))
    with pytest.raises(ValueError, match="found 0"):
        read_statistics(nnx.state(optimizer))


def test_reading_a_state_without_a_guard_is_an_error() -> None:
    with pytest.raises(ValueError, match="wrap the optimizer in skip_nonfinite"):
        skip_counts(optax.adam(0.1).init(jnp.ones(1)))


@pytest.mark.parametrize("limit", [0, -1])
def test_the_limit_must_be_above_zero(limit: int) -> None:
    with pytest.raises(ValueError, match="max_consecutive must be"):
        skip_nonfinite(optax.sgd(0.1), max_consecutive=limit)


def test_extra_arguments_reach_the_inner_transformation() -> None:
    def update(updates: Any, state: Any, params: Any = None, *, factor: Any) -> Any:
        return jax.tree.map(lambda u: u * factor(2.0), updates), state

    inner = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    tx = skip_nonfinite(inner)
    state = tx.init(jnp.ones(2))
    updates, _ = jax.jit(lambda g, s: tx.update(g, s, factor=lambda x: x + 1))(jnp.ones(2), state)
    np.testing.assert_array_equal(updates, 3.0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@given(data=st.data())
def test_one_bad_entry_anywhere_is_enough(dtype: str, data: st.DataObject) -> None:
    # The square of 1e30 overflows, and with it the norm; float16 has no such numbers.
    kinds = [np.nan, np.inf, -np.inf, *([] if dtype == "float16" else [1e30, -1e30])]
    bad = data.draw(st.sampled_from(kinds))
    name = data.draw(st.sampled_from(sorted(MIXED)))
    position = data.draw(st.integers(0, MIXED[name].size - 1))
    g = {key: np.array(x) for key, x in MIXED.items()}
    g[name].flat[position] = bad
    params = jax.tree.map(lambda x: jnp.ones_like(x, dtype), MIXED)
    good = step_of_adam(params, jax.tree.map(lambda x: x.astype(dtype), MIXED))
    after = step_of_adam(params, jax.tree.map(lambda x: x.astype(dtype), g))
    assert skip_counts(good[1]) == (0, 0)
    assert skip_counts(after[1]) == (1, 1)
    assert as_bits(after[0]) == as_bits(params)
    assert as_bits(after[1].inner_state) == as_bits(GUARDED_ADAM.init(params).inner_state)


@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
@pytest.mark.parametrize("name", ["aardvark", "adamw"])
def test_a_bad_entry_in_one_shard_stops_all_of_them(name: str, kind: AxisType) -> None:
    tx = GUARDED[name]()
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        place = lambda x: jax.device_put(x, NamedSharding(mesh, PartitionSpec("fsdp")))  # noqa: E731
        params = {"embed": place(jnp.ones((16, 2))), "head": place(jnp.ones(8))}
        bad = {**params, "head": place(jnp.ones(8).at[5].set(jnp.nan))}

        @jax.jit
        def step(params: Any, state: Any, g: Any) -> tuple[Any, Any]:
            updates, state = tx.update(g, state, params)
            return optax.apply_updates(params, updates), state

        params, state = step(params, jax.jit(tx.init)(params), params)
        after, skipped = step(params, state, bad)
    assert as_bits((after, skipped.inner_state)) == as_bits((params, state.inner_state))
    for counter in (skipped.total, skipped.consecutive):
        assert [int(shard.data) for shard in counter.addressable_shards] == [1] * 8


def test_around_accumulation_a_bad_part_is_left_out_of_the_mean() -> None:
    tx = skip_nonfinite(optax.MultiSteps(optax.sgd(1.0), 2).gradient_transformation())
    params = jnp.zeros(2)
    state = tx.init(params)
    update = jax.jit(tx.update)
    total = params
    for g in (1.0, jnp.nan, 3.0):
        updates, state = update(jnp.full(2, g), state, params)
        total = total + updates
    np.testing.assert_array_equal(total, -2.0)  # the mean of 1 and 3
    assert skip_counts(state) == (1, 0)


def test_inside_accumulation_a_bad_part_is_never_applied_and_gets_loud() -> None:
    """optax.MultiSteps empties its sum by multiplying with zero, and so a NaN stays in it."""
    tx = optax.MultiSteps(skip_nonfinite(optax.sgd(1.0), max_consecutive=2), 2)
    params = jnp.zeros(2)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for g in (1.0, jnp.nan, 1.0, 1.0):
        updates, state = update(jnp.full(2, g), state, params)
        np.testing.assert_array_equal(updates, 0.0)
    with pytest.raises(NonfiniteError):
        raise_if_stuck(state)


def test_a_guard_around_a_guard_decides_for_both_and_counts_alone() -> None:
    tx = skip_nonfinite(aardvark(0.1, clip=None))
    params = trees.model()
    _, state = jax.jit(lambda p: tx.update(spoil(p, jnp.nan), tx.init(p), p))(params)
    assert (int(state.total), int(state.inner_state.total)) == (1, 0)
    assert as_bits(state.inner_state) == as_bits(tx.init(params).inner_state)
    assert traffic(tx)[0] <= traffic(aardvark(0.1))[0] + 0.1


@pytest.mark.parametrize(
    "inner",
    [optax.adamw(0.1), optax.adam(0.1, mu_dtype="float32"), optax.sgd(np.float32(0.1), 0.9)],
    ids=["adamw", "float32 momentum", "NumPy's number"],
)
@pytest.mark.parametrize(
    ("gradient", "parameter"),
    [("bfloat16", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")],
)
def test_around_others_it_changes_no_dtype_whatever_that_of_gradients_and_parameters(
    inner: Any, gradient: str, parameter: str
) -> None:
    params, g = jnp.ones(2, parameter), jnp.full(2, jnp.nan, gradient)
    tx = skip_nonfinite(inner)

    def step(tx: optax.GradientTransformation) -> Any:
        return jax.jit(lambda g, p: tx.update(g, tx.init(p), p))(g, params)

    updates, state = step(tx)
    chex.assert_trees_all_equal_shapes_and_dtypes((updates, state.inner_state), step(inner))
    assert as_bits(optax.apply_updates(params, updates)) == as_bits(params)
    chex.assert_trees_all_equal_comparator(
        lambda x, y: bool(jnp.all(x == y)),
        lambda *_: "moved",
        state.inner_state,
        inner.init(params),
    )


def test_one_around_our_own_optimizers_costs_no_more_than_theirs() -> None:
    """It is recognized what keeps its own state: nothing is selected and nothing copied."""
    ours, wrapped = aardvark(0.1), skip_nonfinite(aardvark(0.1, nonfinite=None), max_consecutive=3)
    assert traffic(wrapped) == traffic(ours)
    params = trees.model()
    for g in (trees.model(seed=1), spoil(trees.model(seed=2), jnp.nan)):
        (mine, _), (others, state) = (
            jax.jit(tx.update)(g, tx.init(params), params) for tx in (ours, wrapped)
        )
        assert as_bits(mine) == as_bits(others)
    assert int(state.max_consecutive) == 3


def test_one_around_a_chain_that_holds_our_own_selects_and_is_right_too() -> None:
    chain = optax.chain(aardvark(0.1, nonfinite=None), optax.trace(0.9))
    tx, params = skip_nonfinite(chain), trees.model()
    update = jax.jit(tx.update)
    _, before = update(trees.model(seed=1), tx.init(params), params)
    updates, after = update(spoil(trees.model(seed=2), jnp.nan), before, params)
    assert as_bits(after.inner_state) == as_bits(before.inner_state)
    assert not any(u.any() for u in jax.tree.leaves(updates))
    assert skip_counts(after) == (1, 1)


def unsteady(rate_of: Any) -> dict[str, Any]:
    """Optimizers whose second update is not finite, whatever the gradients are."""
    rate = lambda count: rate_of(count.astype(jnp.float32))  # noqa: E731
    return {
        "adam": optax.adam(rate),
        "stratopt": stratopt(rate),
        "aardvark": aardvark(rate, nonfinite=None),
        "guarded": aardvark(rate),
    }


OVERFLOWS = {
    "division by zero": lambda count: 0.1 / (1.0 - count),
    "overflow": lambda count: jnp.exp(1000.0 * count),
}


@pytest.mark.parametrize("reason", OVERFLOWS)
@pytest.mark.parametrize("name", ["adam", "stratopt", "aardvark", "guarded"])
def test_updates_that_are_not_finite_are_skipped_where_they_are_checked(
    name: str, reason: str
) -> None:
    tx = skip_nonfinite(unsteady(OVERFLOWS[reason])[name], check="updates")
    params, g = trees.model(), trees.model(seed=1)

    @jax.jit
    def step(params: Any, state: Any, g: Any) -> tuple[Any, Any]:
        updates, state = tx.update(g, state, params)
        return optax.apply_updates(params, updates), state

    params, state = step(params, tx.init(params), g)
    assert skip_counts(state) == (0, 0)
    after, skipped = step(params, state, g)
    assert as_bits(after) == as_bits(params)
    assert as_bits(skipped.inner_state) == as_bits(state.inner_state)
    assert (int(skipped.total), int(skipped.consecutive)) == (1, 1)
    after, skipped = step(params, skipped, spoil(g, jnp.nan))  # and gradients still are
    assert as_bits((after, skipped.inner_state)) == as_bits((params, state.inner_state))
    assert int(skipped.total) == 2


def test_where_only_gradients_are_checked_such_updates_pass() -> None:
    tx = skip_nonfinite(unsteady(OVERFLOWS["overflow"])["adam"])
    params, g = trees.model(), trees.model(seed=1)
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(g, state, params)
    assert not all(bool(jnp.isfinite(u).all()) for u in jax.tree.leaves(updates))
    assert skip_counts(state) == (0, 0)


def test_what_is_checked_must_be_known() -> None:
    with pytest.raises(ValueError, match="check must be one of 'gradients', 'updates'"):
        skip_nonfinite(optax.sgd(0.1), check="losses")  # type: ignore[arg-type]


def test_repair_zeroes_the_bad_entries_and_counts_steps() -> None:
    tx = repair_nonfinite()
    bad = {"a": jnp.array([jnp.nan, 1.0]), "b": jnp.array([jnp.inf, -jnp.inf, 2.0])}
    good = {"a": jnp.array([3.0, 1.0]), "b": jnp.array([0.0, -0.0, 2.0])}
    repaired, state = tx.update(bad, tx.init(bad))
    chex.assert_trees_all_equal(repaired, {"a": jnp.array([0, 1.0]), "b": jnp.array([0.0, 0, 2])})
    untouched, state = tx.update(good, state)
    chex.assert_trees_all_equal(untouched, good)
    assert int(state.total) == 1


@pytest.mark.parametrize("make", [aardvark, stratopt])
def test_nan_to_num_steps_on_where_skip_stands_still(make: Any) -> None:
    g = {"mlp": jnp.array([[jnp.nan, 1.0]])}

    def step(nonfinite: Any) -> tuple[Any, Any]:
        tx = make(0.1, nonfinite=nonfinite, weight_decay=0.0)
        updates, state = jax.jit(lambda: tx.update(g, tx.init(g), g))()
        return updates["mlp"][0], state

    repaired, state = step("nan_to_num")
    assert repaired[0] == 0.0
    assert repaired[1] < -0.05
    assert int(find_states(state, RepairNonfiniteState)[0].total) == 1
    np.testing.assert_array_equal(step("skip")[0], 0.0)
    assert bool(jnp.isnan(step(None)[0]).any())
