"""The learning rate of a step, read from the state of whatever optimizer it is."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_strat import (
    aardvark,
    dynamic_loss_scale,
    learning_rate_of,
    record_statistics,
    skip_nonfinite,
    stratify,
    stratopt,
)

PARAMS = {"embed": jnp.ones((3, 2)), "mlp": jnp.ones((2, 2))}
SCHEDULE = optax.linear_schedule(0.1, 0.5, 4)


def in_groups(learning_rate: Any) -> optax.GradientTransformationExtraArgs:
    return stratify({".*": optax.scale_by_adam()}, learning_rate=learning_rate)


MAKERS = {"stratopt": stratopt, "aardvark": aardvark, "stratify": in_groups}
all_makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def rates(tx: Any, steps: int = 3, g: Any = PARAMS) -> list[float]:
    """What is read before the first step and after each."""
    state = tx.init(PARAMS)
    found = [float(learning_rate_of(state))]
    update = jax.jit(tx.update)
    for _ in range(steps):
        _, state = update(g, state, PARAMS)
        found.append(float(learning_rate_of(state)))
    return found


@all_makers
def test_a_constant_rate_is_read_before_and_after_every_step(make: Any) -> None:
    np.testing.assert_allclose(rates(make(0.25)), [0.25] * 4, rtol=1e-6)


@all_makers
def test_after_a_step_it_is_the_rate_of_that_step(make: Any) -> None:
    np.testing.assert_allclose(rates(make(SCHEDULE)), [0.1, 0.1, 0.2, 0.3], rtol=1e-6)


@all_makers
def test_the_update_is_by_the_rate_that_is_read(make: Any) -> None:
    """Twice the rate read, twice the update."""
    once, twice = make(SCHEDULE), make(lambda count: 2 * SCHEDULE(count))
    (u, state), (v, twice_state) = (
        tx.update(PARAMS, tx.init(PARAMS), PARAMS) for tx in (once, twice)
    )
    np.testing.assert_allclose(v["mlp"], 2 * u["mlp"], rtol=1e-6)
    np.testing.assert_allclose(learning_rate_of(twice_state), 2 * learning_rate_of(state))


@all_makers
def test_an_injected_rate_is_the_one_that_was_set(make: Any) -> None:
    injected = optax.inject_hyperparams(make)(learning_rate=0.1)
    state = injected.init(PARAMS)
    state.hyperparams["learning_rate"] = jnp.asarray(0.7)
    assert float(learning_rate_of(state)) == pytest.approx(0.7)
    _, state = injected.update(PARAMS, state, PARAMS)
    assert float(learning_rate_of(state)) == pytest.approx(0.7)


def test_an_injected_schedule_of_anybodys_optimizer_is_read() -> None:
    injected = optax.inject_hyperparams(optax.adam)(learning_rate=SCHEDULE)
    np.testing.assert_allclose(rates(injected), [0.1, 0.1, 0.2, 0.3], rtol=1e-6)


@all_makers
def test_it_is_read_inside_a_compiled_step(make: Any) -> None:
    tx = make(SCHEDULE)

    @jax.jit
    def step(state: Any) -> Any:
        _, state = tx.update(PARAMS, state, PARAMS)
        return state, learning_rate_of(state)

    state, first = step(tx.init(PARAMS))
    _, second = step(state)
    assert (first.dtype, first.shape) == (jnp.float32, ())
    np.testing.assert_allclose([first, second], [0.1, 0.2], rtol=1e-6)


WRAPPERS: dict[str, Any] = {
    "skip_nonfinite": skip_nonfinite,
    "masked": lambda tx: optax.masked(tx, {"embed": False, "mlp": True}),
    "chain": lambda tx: optax.chain(optax.clip_by_global_norm(1.0), tx),
    "partition": lambda tx: optax.partition(
        {"a": tx, "b": optax.set_to_zero()}, {"embed": "b", "mlp": "a"}
    ),
    "record_statistics": record_statistics,
    "dynamic_loss_scale": lambda tx: dynamic_loss_scale(tx, initial=1.0),
}


@all_makers
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_it_is_found_inside_wrappers(make: Any, wrap: Any) -> None:
    np.testing.assert_allclose(rates(wrap(make(SCHEDULE)), 2), [0.1, 0.1, 0.2], rtol=1e-6)


@all_makers
def test_accumulation_moves_it_only_with_a_real_step(make: Any) -> None:
    steps = optax.MultiSteps(make(SCHEDULE), every_k_schedule=2)
    np.testing.assert_allclose(rates(steps, 4), [0.1, 0.1, 0.1, 0.1, 0.2], rtol=1e-6)


def test_a_skipped_step_leaves_it() -> None:
    tx = skip_nonfinite(in_groups(SCHEDULE))
    bad = jax.tree.map(lambda p: p * jnp.nan, PARAMS)
    np.testing.assert_allclose(rates(tx, 2, bad), [0.1, 0.1, 0.1], rtol=1e-6)


def test_a_rate_of_zero_is_one() -> None:
    assert rates(in_groups(0.0), 1) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("tx", "found"),
    [
        (optax.adam(0.1), 0),
        (stratify({".*": optax.scale_by_adam()}), 0),
        (optax.chain(in_groups(0.1), in_groups(0.2)), 2),
    ],
    ids=["Optax's adam", "no rate", "two"],
)
def test_none_or_several_are_an_error_that_says_who_keeps_one(tx: Any, found: int) -> None:
    with pytest.raises(ValueError, match=f"found {found}: stratopt, aardvark, stratify"):
        learning_rate_of(tx.init(PARAMS))
