"""Values, shapes and arguments at the edges of what there is, and beyond them."""

import functools
import inspect
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import optax_strat
from optax_strat import SkipNonfiniteState, find_states
from tests.support import fast
from tests.support.optimizers import CORE, OPTIMIZERS, TABLE

pytestmark = pytest.mark.filterwarnings("ignore:No parameter is an output head")
every_optimizer = pytest.mark.parametrize("name", fast(OPTIMIZERS, *CORE))

GUARDED = [
    name
    for name, make in TABLE.items()
    if find_states(jax.eval_shape(make(1.0).init, jnp.ones(1)), SkipNonfiniteState)
]

shapes = st.one_of(
    st.sampled_from([(), (0,), (0, 3), (1,), (4096, 1), (1, 4096), (2, 1, 3, 1, 2, 1)]),
    st.lists(st.integers(1, 5), max_size=4).map(tuple),
)
leaves = st.builds(
    lambda shape, dtype: jnp.full(shape, 0.5, dtype),
    shapes,
    st.sampled_from(["float16", "bfloat16", "float32"]),
)
parameters = st.fixed_dictionaries(
    {"embed": leaves}, optional={"mlp": leaves, "norm": leaves, "head": st.none() | leaves}
)


@every_optimizer
@settings(max_examples=2, phases=[Phase.generate])  # each example compiles
@given(
    params=parameters,
    scales=st.lists(st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e30]), min_size=4, max_size=4),
)
def test_any_tree_of_finite_gradients_of_any_size_has_finite_updates(
    name: str, params: Any, scales: list[float]
) -> None:
    tx = TABLE[name](1e-2)

    @jax.jit
    def run(scales: jax.Array) -> Any:
        def step(state: Any, scale: jax.Array) -> Any:
            g = jax.tree.map(lambda p: finite(p * scale, p.dtype), params)
            updates, state = tx.update(g, state, params)
            return state, updates

        return jax.lax.scan(step, tx.init(params), scales)

    state, updates = run(jnp.asarray(scales))
    for found, p in zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
        assert (found.shape[1:], found.dtype) == (p.shape, p.dtype)
        assert bool(jnp.all(jnp.isfinite(found)))
    assert not any(bool(jnp.any(jnp.isnan(x))) for x in jax.tree.leaves(state))


def finite(x: jax.Array, dtype: Any) -> jax.Array:
    """x in another dtype, where too large a number for it is its largest."""
    limit = float(jnp.finfo(dtype).max)
    return jnp.clip(x.astype(jnp.float32), -limit, limit).astype(dtype)


PARAMS = {
    "embed": jnp.array([[1.0, -2.0], [0.0, 3e5], [1e-5, 1.0]]),
    "norm": jnp.array([1.0, -0.0]),
}
SIZE = 8

numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)


@functools.cache
def trained(name: str) -> Any:
    """Some steps with the given gradients, compiled once: parameters and state after each."""
    tx = TABLE[name](1e-2)

    def step(carry: Any, values: jax.Array) -> Any:
        params, state = carry
        g = {"embed": values[:6].reshape(3, 2), "norm": values[6:]}
        updates, state = tx.update(g, state, params)
        carry = optax.apply_updates(params, updates), state
        return carry, (updates, *carry)

    return jax.jit(lambda values: jax.lax.scan(step, (PARAMS, tx.init(PARAMS)), values)[1])


@every_optimizer
@example(values=np.outer(np.float32([1e-30, 1e-30, 1e-30]), np.ones(SIZE, np.float32)))
@example(values=np.outer(np.float32([1e30, 1e30, 1e-30]), np.ones(SIZE, np.float32)))
@example(values=np.outer(np.float32([1e-3, -1e30, 1e30]), np.ones(SIZE, np.float32)))
@given(values=hnp.arrays(np.float32, (3, SIZE), elements=numbers))
def test_any_finite_numbers_make_finite_updates(name: str, values: Any) -> None:
    updates, params, state = trained(name)(values)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves((updates, params)))
    assert not any(bool(jnp.any(jnp.isnan(x))) for x in jax.tree.leaves(state))


@pytest.mark.parametrize("name", GUARDED)
@given(
    values=hnp.arrays(np.float32, (2, SIZE), elements=st.floats(-1e3, 1e3, width=32)),
    place=st.integers(0, SIZE - 1),
    bad=st.sampled_from([math.nan, math.inf, -math.inf, 3e38, -3e38]),
)
def test_a_guard_lets_no_bad_number_change_a_bit(
    name: str, values: Any, place: int, bad: float
) -> None:
    values[1, place] = bad
    _, params, state = trained(name)(values)
    (guard,) = find_states(state, SkipNonfiniteState)
    assert guard.total.tolist() == [0, 1]
    for x in jax.tree.leaves((params, guard.inner_state)):
        assert np.asarray(x[0]).tobytes() == np.asarray(x[1]).tobytes()


@every_optimizer
def test_zero_gradients_move_nothing_but_what_decays(name: str) -> None:
    updates, _, _ = trained(name)(np.zeros((3, SIZE), np.float32))
    np.testing.assert_array_equal(updates["norm"], 0.0)
    assert bool(jnp.all(jnp.isfinite(updates["embed"])))


KERNEL = jnp.ones((3, 3))
POSITIVE = (math.nan, math.inf, -1.0, 0.0)
NOT_NEGATIVE = (math.nan, math.inf, -1.0)
DECAY = (math.nan, -0.1, 1.0)
BAD = {
    "b1": DECAY,
    "b2": DECAY,
    "beta": DECAY,
    "clip": POSITIVE,
    "decay": (*POSITIVE, 1.5),
    "eps": NOT_NEGATIVE,
    "eps_root": NOT_NEGATIVE,
    "factor": (*POSITIVE, 1.0),
    "final_fraction": (*NOT_NEGATIVE, 1.5),
    "growth_interval": POSITIVE,
    "initial": POSITIVE,
    "layer_clip": POSITIVE,
    "learning_rate": NOT_NEGATIVE,
    "max_consecutive": POSITIVE,
    "max_norm": POSITIVE,
    "maximum": POSITIVE,
    "minimum": POSITIVE,
    "ns_steps": POSITIVE,
    "peak": POSITIVE,
    "rms": POSITIVE,
    "steps": POSITIVE,
    "warmup_steps": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
}
"""What a number of this name must not be, in every public function that takes one."""

REQUIRED = {
    "base_shapes": {"mlp": KERNEL},
    "decay": 0.5,
    "inner": optax.sgd(0.1),
    "learning_rate": 0.1,
    "max_norm": 1.0,
    "peak": 0.1,
    "steps": 100,
    "transforms": {"mlp": optax.scale_by_adam()},
}


def numeric_arguments() -> list[tuple[str, str]]:
    """Every public function with each of its arguments that are numbers."""
    found = []
    for function in optax_strat.__all__:
        if not inspect.isfunction(getattr(optax_strat, function)):
            continue
        for argument in inspect.signature(getattr(optax_strat, function)).parameters.values():
            is_number = type(argument.default) in (int, float)
            assert not is_number or argument.name in BAD, f"What must {argument.name} not be?"
            if argument.name in BAD:
                found.append((function, argument.name))
    return found


every_number = pytest.mark.parametrize(("function", "argument"), numeric_arguments())


def call(function: str, **arguments: Any) -> None:
    factory = getattr(optax_strat, function)
    names = inspect.signature(factory).parameters
    factory(**{name: REQUIRED[name] for name in names if name in REQUIRED} | arguments)


@every_number
def test_a_number_out_of_range_is_refused_by_name_and_value(function: str, argument: str) -> None:
    call(function)
    for value in BAD[argument]:
        with pytest.raises(ValueError, match=rf"{argument}\b.* {value!r}"):
            call(function, **{argument: value})


@every_number
def test_what_is_no_number_is_refused_by_name_and_value(function: str, argument: str) -> None:
    for value in ("0.1", [0.1], True, 1j):
        with pytest.raises(ValueError, match=rf"{argument}\b.* {re.escape(repr(value))}"):
            call(function, **{argument: value})


SCHEDULED = ("learning_rate", "weight_decay")
OPTIONAL = ("clip", "layer_clip", "max_norm", "rms")
UNSCALED = ("stratify", "learning_rate")
"""Without a rate it gives directions."""


@every_number
def test_none_and_schedules_are_refused_where_they_mean_nothing(
    function: str, argument: str
) -> None:
    if argument not in (*OPTIONAL, "warmup_steps") and (function, argument) != UNSCALED:
        with pytest.raises(ValueError, match=rf"{argument}\b.* must be a number, but it is None"):
            call(function, **{argument: None})
    if argument not in SCHEDULED:
        with pytest.raises(ValueError, match=rf"{argument}\b.* must be a number"):
            call(function, **{argument: optax.constant_schedule(0.5)})


CHOICES = ("clip_mode", "decay_rate", "nonfinite", "reference", "scaling", "second_moment")


@pytest.mark.parametrize("factory", [optax_strat.stratopt, optax_strat.aardvark])
def test_an_unknown_option_names_the_choices(factory: Any) -> None:
    asked = [name for name in CHOICES if name in inspect.signature(factory).parameters]
    assert len(asked) >= 3
    for name in asked:
        with pytest.raises(ValueError, match=f"{name} must be one of .*'.*', .* but it is 'best'"):
            factory(0.1, **{name: "best"})


def test_numbers_from_numpy_and_jax_are_numbers() -> None:
    for number in (np.float32(0.5), np.float64(0.5), np.asarray(0.5), jnp.asarray(0.5)):
        optax_strat.stratopt(number, number, number, number, layer_clip=number)
        optax_strat.aardvark(number, number, number, number, clip=number, weight_decay=number)


@pytest.mark.parametrize("leaf", [jnp.ones(3, int), np.ones(3, bool), 1, jax.random.key(0)])
@pytest.mark.parametrize("tx", [optax_strat.aardvark(0.1), optax_strat.stratopt(0.1)])
def test_a_parameter_without_a_gradient_is_refused_by_its_path(
    tx: optax.GradientTransformation, leaf: Any
) -> None:
    with pytest.raises(ValueError, match=r"^parameters must be .* but mlp/up is "):
        jax.eval_shape(tx.init, {"embed": KERNEL, "mlp": {"up": leaf}})


OTHER_GRADIENTS: dict[str, tuple[Any, str]] = {
    "one is missing": ({"embed": KERNEL}, "mlp/up of shape (3, 3), the gradients have nothing."),
    "one is too many": (
        {"embed": KERNEL, "mlp": {"up": KERNEL}, "norm": KERNEL},
        "nothing, the gradients have norm of shape (3, 3).",
    ),
    "one is called otherwise": (
        {"embed": KERNEL, "mlp": {"down": KERNEL}},
        "mlp/up of shape (3, 3), the gradients have mlp/down of shape (3, 3).",
    ),
    "one has a shape that broadcasts": (
        {"embed": KERNEL, "mlp": {"up": KERNEL[:1]}},
        "mlp/up of shape (3, 3), the gradients have mlp/up of shape (1, 3).",
    ),
}


@pytest.mark.parametrize("gradients", OTHER_GRADIENTS)
@pytest.mark.parametrize(
    "tx",
    [
        optax_strat.aardvark(0.1),
        optax_strat.aardvark(0.1, clip_mode="per_tensor", scaling="adaptive", nonfinite=None),
        optax_strat.stratopt(0.1),
        optax_strat.stratopt(
            0.1, nonfinite="skip", readings=optax_strat.StratoptReadings(stratum="type")
        ),
    ],
)
def test_gradients_of_other_parameters_are_refused_by_the_first_that_differs(
    tx: optax.GradientTransformation, gradients: str
) -> None:
    params = {"embed": KERNEL, "mlp": {"up": KERNEL}}
    state = jax.eval_shape(tx.init, params)
    given, differs = OTHER_GRADIENTS[gradients]
    with pytest.raises(ValueError, match=rf"^the gradients must .* have {re.escape(differs)}"):
        jax.eval_shape(tx.update, given, state, params)


def test_gradients_may_have_lost_the_containers_that_the_parameters_had() -> None:
    boxed = {"mlp": nnx.Param(KERNEL)}
    for tx in (optax_strat.aardvark(0.1), optax_strat.stratopt(0.1)):
        state = jax.eval_shape(tx.init, boxed)
        updates, _ = jax.eval_shape(tx.update, {"mlp": KERNEL}, state, {"mlp": KERNEL})
        assert updates["mlp"].shape == KERNEL.shape
