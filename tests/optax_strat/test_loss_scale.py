"""Loss scaling for float16."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from optax_strat import (
    DynamicLossScaleState,
    NonfiniteError,
    SkipCounts,
    SkipNonfiniteState,
    aardvark,
    dynamic_loss_scale,
    find_states,
    loss_scale,
    raise_if_stuck,
    skip_counts,
    skip_nonfinite,
    stratopt,
)
from tests.support.donated import traffic

X = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
Y = np.sin(X @ np.array([[1.0], [-1.0], [0.5], [2.0]], np.float32))


def two_layers(dtype: Any) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        "mlp": {"up": jnp.asarray(rng.normal(size=(4, 16)) / 2, dtype)},
        "head": jnp.asarray(rng.normal(size=(16, 1)) / 4, dtype),
    }


def loss(params: Any, dtype: Any) -> jax.Array:
    """The mean squared error of a network that computes in a dtype."""
    x, up, head = (jnp.asarray(a, dtype) for a in (X, params["mlp"]["up"], params["head"]))
    outputs = jnp.tanh(x @ up) @ head
    return jnp.mean((outputs.astype(jnp.float32) - Y) ** 2)


def train(tx: optax.GradientTransformation, params: Any, dtype: Any, steps: int) -> Any:
    """The final state, and of each step the loss, the loss scale and whether it was taken."""

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        scale = loss_scale(state)
        value, gradients = jax.value_and_grad(lambda p: loss(p, dtype) * scale)(params)
        updates, state = tx.update(gradients, state, params)
        (guard,) = find_states(state, SkipNonfiniteState)
        records = value / scale, scale, guard.consecutive == 0
        return (optax.apply_updates(params, updates), state), records

    (_, state), records = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=steps))(
        params
    )
    return state, *map(np.asarray, records)


def as_bits(tree: Any) -> list[bytes]:
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize(
    ("make", "stored"),
    [(aardvark, jnp.float16), (lambda rate: stratopt(rate, nonfinite="skip"), jnp.float32)],
    ids=["aardvark on float16 parameters", "stratopt on float32 parameters"],
)
def test_a_float16_model_trains_as_in_float32_from_a_scale_that_is_too_large(
    make: Any, stored: Any
) -> None:
    tx = dynamic_loss_scale(make(1e-2), initial=2.0**24, growth_interval=50)
    state, losses, scales, taken = train(tx, two_layers(stored), jnp.float16, 130)
    first = int(np.argmax(taken))
    assert first > 3  # the scale is too large at the start
    assert np.all(losses[:first] == losses[0])  # and nothing moves until it has come down
    assert np.all(np.isfinite(losses))
    assert np.any(np.diff(scales) > 0)  # after the interval it grows
    assert skip_counts(state) == SkipCounts(np.sum(~taken), 0)

    fixed = dynamic_loss_scale(make(1e-2), initial=1.0, maximum=1.0)
    _, expected, _, _ = train(fixed, two_layers(jnp.float32), jnp.float32, 130)
    assert expected[-1] < 0.3 * expected[0]
    np.testing.assert_allclose(losses[taken], expected[: np.sum(taken)], rtol=0.05, atol=2e-3)


def test_the_scale_halves_when_a_step_is_skipped_and_doubles_after_the_interval() -> None:
    tx = dynamic_loss_scale(optax.sgd(0.1), initial=8.0, growth_interval=3, maximum=16.0, minimum=4)
    params = jnp.ones(2)
    state = tx.init(params)
    update = jax.jit(tx.update)
    scales = []
    for good in (1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0):
        _, state = update(jnp.ones(2) if good else jnp.full(2, jnp.inf), state, params)
        scales.append(float(loss_scale(state)))
    assert scales == [8, 8, 4, 4, 4, 8, 8, 8, 16, 16, 16, 16, 8]


def test_small_gradients_survive() -> None:
    """2^-24 is float16's smallest number; a gradient of 2^-30 reaches it at a scale of 2^10."""
    params = jnp.ones(1, jnp.float16)
    tx = dynamic_loss_scale(aardvark(0.1, weight_decay=0.0), initial=2.0**10)
    g = jnp.full(1, 2.0**-20, jnp.float16)
    updates, _ = jax.jit(lambda: tx.update(g, tx.init(params), params))()
    assert updates.dtype == jnp.float16
    np.testing.assert_allclose(updates, -0.1 * 2**-30 / (2**-30 + 1e-8), rtol=1e-3)


@pytest.mark.parametrize(
    "inner",
    [aardvark(0.1), stratopt(0.1), optax.adamw(0.1), optax.MultiSteps(optax.adam(0.1), 2)],
    ids=["aardvark", "stratopt", "adamw", "MultiSteps"],
)
def test_a_skipped_step_leaves_everything_but_the_scale_bit_identical(inner: Any) -> None:
    if isinstance(inner, optax.MultiSteps):
        inner = inner.gradient_transformation()
    tx = dynamic_loss_scale(inner)
    params = two_layers(jnp.float16)

    @jax.jit
    def step(params: Any, state: Any, g: Any) -> Any:
        updates, state = tx.update(g, state, params)
        return optax.apply_updates(params, updates), state

    params, state = step(params, tx.init(params), params)
    bad = {**params, "head": params["head"].at[3].set(jnp.nan)}
    after, skipped = step(params, state, bad)
    assert as_bits(after) == as_bits(params)
    assert as_bits(skipped.inner_state.inner_state) == as_bits(state.inner_state.inner_state)
    assert skip_counts(skipped) == SkipCounts(1, 1)
    assert float(loss_scale(skipped)) == 2.0**14
    _, state = step(after, skipped, params)
    assert skip_counts(state) == SkipCounts(1, 0)


def test_it_is_stuck_only_at_the_lowest_scale() -> None:
    tx = dynamic_loss_scale(optax.sgd(0.1), initial=2.0**6, max_consecutive=3)
    state = tx.init(jnp.ones(1))
    update = jax.jit(tx.update)
    for step in range(1, 9):  # six halvings, and two steps at the scale of one
        _, state = update(jnp.full(1, jnp.nan), state)
        assert raise_if_stuck(state) == SkipCounts(step, step)
    _, state = update(jnp.full(1, jnp.nan), state)
    with pytest.raises(NonfiniteError, match="3 steps in a row at the lowest loss scale, 9 in all"):
        raise_if_stuck(state)
    _, state = update(jnp.ones(1), state)
    assert raise_if_stuck(state) == SkipCounts(9, 0)


def test_a_guard_outside_keeps_the_scale_from_falling_and_gets_loud() -> None:
    tx = skip_nonfinite(dynamic_loss_scale(optax.sgd(0.1)), max_consecutive=2)
    state = tx.init(jnp.ones(1))
    update = jax.jit(tx.update)
    for _ in range(2):
        raise_if_stuck(state)
        _, state = update(jnp.full(1, jnp.nan), state)
    assert float(loss_scale(state)) == 2.0**15
    with pytest.raises(NonfiniteError, match="2 steps in a row, 2 in all"):
        raise_if_stuck(state)


@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
def test_all_shards_take_one_decision(kind: AxisType) -> None:
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(kind,))
    tx = dynamic_loss_scale(aardvark(0.1, multipliers={"embedding": 1.0}))
    with jax.set_mesh(mesh):
        place = lambda x: jax.device_put(x, NamedSharding(mesh, PartitionSpec("fsdp")))  # noqa: E731
        kernel = jnp.ones((16, 2), jnp.float16)
        params = {"embed": place(kernel), "mlp": place(jnp.ones(8))}
        bad = {"embed": place(kernel.at[7, 1].set(jnp.inf)), "mlp": place(jnp.ones(8))}

        def step(params: Any, state: Any, g: Any) -> Any:
            updates, state = tx.update(g, state, params)
            return optax.apply_updates(params, updates), state

        donated = jax.jit(step, donate_argnums=(0, 1))
        after, state = donated(params, jax.jit(tx.init)(params), bad)
        chex.assert_trees_all_equal(
            jax.device_get(after), {"embed": np.ones((16, 2), np.float16), "mlp": np.ones(8)}
        )
        (found,) = find_states(state, DynamicLossScaleState)
        for number, expected in ((found.scale, 2.0**14), (found.inner_state.total, 1)):
            assert {float(shard.data) for shard in number.addressable_shards} == {expected}


@pytest.mark.parametrize("make", [aardvark, lambda rate: stratopt(rate, nonfinite="skip")])
def test_unscaling_costs_a_write_and_a_read_of_the_gradients_at_most(make: Any) -> None:
    """Eight bytes on a CPU, which writes down what a norm is taken of, and none on a GPU."""
    plain, _ = traffic(make(0.1))
    scaled, _ = traffic(dynamic_loss_scale(make(0.1)))
    assert scaled <= plain + 8.1


def test_the_reader_wants_exactly_one() -> None:
    with pytest.raises(ValueError, match="Expected one dynamic_loss_scale"):
        loss_scale(optax.adam(0.1).init(jnp.ones(1)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial": 0.0}, "initial must be a finite number above 0"),
        ({"initial": 2.0**30}, "initial must lie between minimum and maximum, but it is 10737"),
        ({"factor": 1.0}, "factor must be above 1, but it is 1.0"),
        ({"growth_interval": 0}, "growth_interval"),
        ({"minimum": -1.0}, "minimum"),
        ({"maximum": float("inf")}, "maximum"),
        ({"max_consecutive": 0}, "max_consecutive must be"),
    ],
)
def test_numbers_outside_their_ranges_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dynamic_loss_scale(optax.sgd(0.1), **arguments)
