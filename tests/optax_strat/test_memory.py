"""Optimizer states that take less memory, and what that costs in precision: next to nothing."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.parts.trees import tree
from optax_strat import (
    Layers,
    aardvark,
    find_states,
    scale_by_aardvark,
    scale_by_stratopt,
    stratopt,
)
from optax_strat import ScaleByAardvarkState as State
from optax_strat._second_moments import round_to_bfloat16, rounding_seed
from tests.support import trees


def bytes_per_parameter(tx: optax.GradientTransformation) -> float:
    """Of the state of a model of 133M parameters."""
    params = tree("stacked")
    state = jax.eval_shape(tx.init, params)
    size = sum(x.size for x in jax.tree.leaves(params))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) / size


@pytest.mark.parametrize("factory", [stratopt, aardvark])
@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 8.001),
        ({"mu_dtype": "bfloat16"}, 6.001),
        ({"mu_dtype": "bfloat16", "second_moment": "bfloat16"}, 4.001),
        ({"mu_dtype": "bfloat16", "second_moment": "factored"}, 2.1),
    ],
    ids=["float32", "bfloat16 mu", "bfloat16", "factored"],
)
def test_a_state_takes_so_many_bytes_a_parameter(factory: Any, options: Any, most: float) -> None:
    assert most - 0.1 < bytes_per_parameter(factory(0.1, **options)) <= most


@pytest.mark.parametrize("factory", [stratopt, aardvark])
def test_a_factored_state_can_be_donated_whatever_wraps_it(factory: Any) -> None:
    """No buffer may stand in it twice, though vectors leave rows and columns empty."""
    params = {"mlp": jnp.ones((3, 3)), "norm": jnp.ones(3)}
    tx = optax.apply_if_finite(factory(0.1, second_moment="factored"), 3)
    jax.jit(tx.update, donate_argnums=1)(params, tx.init(params), params)


def rounded_to_nearest(state: Any) -> Any:
    """A state whose second moments went through a naive bfloat16."""
    nu = optax.tree.get(state, "nu")
    return optax.tree.set(
        state, nu=jax.tree.map(lambda v: v.astype("bfloat16").astype(v.dtype), nu)
    )


def distance_after_a_bad_start(tx: optax.GradientTransformation, *, naive: bool = False) -> float:
    """How far from the minimum of a parabola 10,000 steps end, the first ten 1000 times as steep.

    Those ten leave a second moment that has to decay by b2 = 0.999 before steps have their length.
    """
    start = {"mlp": jnp.full((8, 8), 1.0)}

    def step(carry: Any, t: jax.Array) -> tuple[Any, None]:
        params, state = carry
        steepness = jnp.where(t < 10, 1e3, 1.0)
        gradients = jax.tree.map(lambda p: steepness * p, params)
        updates, state = tx.update(gradients, state, params)
        state = rounded_to_nearest(state) if naive else state
        return (optax.apply_updates(params, updates), state), None

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(10_000))[0])
    params, _ = run((start, tx.init(start)))
    return float(jnp.max(jnp.abs(params["mlp"])))


@pytest.mark.parametrize(
    ("factory", "options"),
    [
        (aardvark, {"clip": None}),
        (stratopt, {"layer_clip": None, "scale_bounds": (1.0, 1.0)}),
    ],
    ids=["aardvark", "stratopt"],
)
def test_low_precision_converges_where_naive_bfloat16_never_does(
    factory: Any, options: dict[str, Any]
) -> None:
    options = {**options, "weight_decay": 0.0}
    assert distance_after_a_bad_start(factory(3e-3, **options)) < 3e-2
    assert distance_after_a_bad_start(factory(3e-3, second_moment="bfloat16", **options)) < 3e-2
    assert distance_after_a_bad_start(factory(3e-3, second_moment="factored", **options)) < 3e-2
    assert distance_after_a_bad_start(factory(3e-3, **options), naive=True) > 0.3


def test_a_low_precision_moment_decays_as_it_should() -> None:
    tx = scale_by_aardvark(clip=None, second_moment="bfloat16")
    params = {"mlp": jnp.zeros((64, 64))}
    state = tx.init(params)._replace(nu={"mlp": jnp.full((64, 64), 3.0, jnp.bfloat16)})
    decay = jax.jit(
        lambda state: jax.lax.scan(lambda s, _: (tx.update(params, s)[1], None), state, None, 1000)
    )
    nu = decay(state)[0].nu["mlp"].astype(jnp.float32)
    np.testing.assert_allclose(jnp.mean(nu), 3.0 * 0.999**1000, rtol=5e-3)
    assert jnp.std(nu) / jnp.mean(nu) < 0.1  # the noise of a thousand roundings


@pytest.mark.parametrize("value", [1.001, 3.14159, 1e-20, 7.7e30])
def test_rounding_is_right_in_the_mean_and_to_a_neighbour(value: float) -> None:
    x = jnp.full((100, 1000), value, jnp.float32)
    rounded = round_to_bfloat16(x, jnp.uint32(7)).astype(jnp.float32)
    below, above = np.unique(rounded)
    assert below < value < above
    assert np.float32(above) == np.nextafter(jnp.bfloat16(below), jnp.bfloat16(np.inf))
    expected = (np.float32(value) - below) / (above - below)
    np.testing.assert_allclose(np.mean(rounded == above), expected, atol=0.006)  # four sigma


def test_rounding_differs_from_step_to_step_and_from_leaf_to_leaf() -> None:
    x = jnp.full((1000,), 1.001953125, jnp.float32)  # halfway
    seeds = [rounding_seed(jnp.int32(count), leaf) for count in range(8) for leaf in range(8)]
    coins = np.stack([round_to_bfloat16(x, seed) > 1.001 for seed in seeds]).astype(float)
    correlations = np.corrcoef(coins) - np.eye(len(seeds))
    assert np.max(np.abs(correlations)) < 0.15  # of 2016 pairs of 1000 coins each


@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, -(2.0**-126), np.inf, -np.inf, np.nan])
def test_what_bfloat16_holds_is_not_rounded(value: float) -> None:
    x = jnp.full((256,), value, jnp.float32)
    np.testing.assert_array_equal(round_to_bfloat16(x, jnp.uint32(3)).astype(jnp.float32), x)
    np.testing.assert_array_equal(jnp.signbit(round_to_bfloat16(x, jnp.uint32(3))), jnp.signbit(x))


def test_rounding_is_the_same_on_every_mesh() -> None:
    x = jax.random.normal(jax.random.key(0), (16, 24))
    mesh = jax.make_mesh((8,), ("data",))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data", None)))
    both = [jax.jit(round_to_bfloat16)(array, jnp.uint32(5)) for array in (x, sharded)]
    np.testing.assert_array_equal(*(np.asarray(array, np.float32) for array in both))


def test_factors_hold_squares_of_rank_one_exactly() -> None:
    rows, columns = jnp.array([1.0, 2.0, 0.5]), jnp.array([3.0, 0.1])
    g = {"mlp": rows[:, None] * columns[None, :]}
    full, factored = (
        scale_by_aardvark(clip=None),
        scale_by_aardvark(clip=None, second_moment="factored"),
    )
    (expected, _), (ours, state) = (tx.update(g, tx.init(g)) for tx in (full, factored))
    chex.assert_trees_all_close(ours, expected, rtol=1e-5)
    assert state.nu.rows["mlp"].shape == (3, 1)
    assert state.nu.columns["mlp"].shape == (1, 2)
    assert state.nu.full["mlp"].shape == ()


def test_factors_are_moving_averages_of_row_and_column_means() -> None:
    tx = scale_by_aardvark(b2=0.9, clip=None, second_moment="factored")
    gradients = np.random.default_rng(0).normal(size=(5, 4, 6)).astype(np.float32)
    state = tx.init({"mlp": gradients[0]})
    v = np.zeros((4, 6))
    for g in gradients:
        direction, state = tx.update({"mlp": jnp.asarray(g)}, state)
        v = 0.9 * v + 0.1 * g.astype(np.float64) ** 2
    estimate = np.outer(v.mean(1), v.mean(0)) / v.mean() / (1 - 0.9**5)
    m_hat = np.asarray(state.mu["mlp"]) / (1 - 0.9**5)
    np.testing.assert_allclose(direction["mlp"], m_hat / np.sqrt(estimate), rtol=1e-5)


def test_each_layer_of_a_stack_is_a_matrix_of_its_own() -> None:
    stacked = trees.model(np.float32)
    gradients = jax.tree.map(lambda g: g[0], trees.gradients(stacked, 1))
    tx = scale_by_aardvark(second_moment="factored")
    step = jax.jit(lambda g: tx.update(g, tx.init(g)))
    directions, state = step(gradients)
    expected, _ = step(trees.unstack(gradients))
    chex.assert_trees_all_close(
        trees.by_path(trees.unstack(directions)), trees.by_path(expected), rtol=1e-5
    )
    (moments,) = (s.nu for s in find_states(state, State))
    layers = len(trees.unstack(stacked)["layers"])
    assert all(x.shape[0] == layers for x in jax.tree.leaves(moments.rows["layers"]) if x.ndim > 2)


def test_vectors_and_the_smaller_axes_of_a_kernel_are_not_factored() -> None:
    params = {"scale": jnp.zeros(7), "qkv": jnp.zeros((32, 3, 16)), "thin": jnp.zeros((1, 9))}
    nu = scale_by_aardvark(second_moment="factored").init(params).nu
    shapes = jax.tree.map(jnp.shape, nu, is_leaf=lambda x: isinstance(x, jax.Array))
    assert shapes.full == {"scale": (7,), "qkv": (), "thin": (1, 9)}
    assert (shapes.rows["qkv"], shapes.columns["qkv"]) == ((32, 3, 1), (1, 3, 16))


@pytest.mark.parametrize("factory", [stratopt, aardvark, scale_by_aardvark])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"second_moment": "float16"}, "second_moment must be one of None, 'float32', 'bfloat16'"),
        ({"second_moment": True}, "second_moment must be one of .* but it is True"),
    ],
)
def test_what_cannot_be_kept_is_refused(factory: Any, options: Any, message: str) -> None:
    arguments = () if factory is scale_by_aardvark else (0.1,)
    with pytest.raises(ValueError, match=message):
        factory(*arguments, **options)


@pytest.mark.parametrize("factory", [scale_by_stratopt, scale_by_aardvark])
@pytest.mark.parametrize(
    ("shape", "there", "here"),
    [((4, 4, 4), 0, 1), ((4, 4, 4), None, 1), ((3, 4), 0, None), ((3, 4), None, 1)],
)
def test_a_factored_state_of_another_layout_is_refused(
    factory: Any, shape: tuple[int, ...], there: int | None, here: int | None
) -> None:
    """Shapes of parameters do not tell: its rows would be read as those of another axis."""

    def make(axis: int | None) -> Any:
        return factory(
            second_moment="factored",
            layers=Layers(stacked=() if axis is None else {"w": axis}),
        )

    params = {"w": jnp.ones(shape)}
    state = make(there).init(params)
    make(there).update(params, state)  # its own is taken
    with pytest.raises(ValueError, match=r"moments are of another layout .* at w: init must see"):
        make(here).update(params, state)


def test_a_state_with_a_first_moment_is_refused_where_none_is_kept_and_the_reverse() -> None:
    params = {"w": jnp.ones((2, 2))}
    with_one, without = scale_by_stratopt(), scale_by_stratopt(b1=0.0)
    with pytest.raises(ValueError, match=r"the state has no first moment, but with b1=0.9 there"):
        with_one.update(params, without.init(params))
    with pytest.raises(ValueError, match=r"the state has a first moment, but with b1=0.0 there"):
        without.update(params, with_one.init(params))


@pytest.mark.parametrize("params", [{"w": jnp.ones((2, 2))}, {}, None])
def test_an_injected_decay_of_zero_keeps_a_first_moment_of_zeros(params: Any) -> None:
    tx = optax.inject_hyperparams(scale_by_stratopt)(b1=0.0)
    state = tx.init(params)
    for update in (tx.update, jax.jit(tx.update)):
        found, _ = update(params, state)
        expected, _ = scale_by_stratopt(b1=0.0).update(
            params, scale_by_stratopt(b1=0.0).init(params)
        )
        chex.assert_trees_all_close(found, expected, rtol=1e-5)
