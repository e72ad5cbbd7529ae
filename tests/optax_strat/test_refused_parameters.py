"""Trees that are no parameters, and states that are of others, are refused in one sentence."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_strat import (
    Layers,
    aardvark,
    clip_by_layer_norm,
    learning_rate_of,
    scale_by_aardvark,
    scale_by_stratopt,
    skip_nonfinite,
    stratopt,
)

OTHER = Layers(unmatched="other")

ANY = {
    "stratopt": stratopt(0.1, layers=OTHER),
    "aardvark": aardvark(0.1, layers=OTHER),
    "clip_by_layer_norm": clip_by_layer_norm(1.0, layers=OTHER),
    "skip_nonfinite": skip_nonfinite(optax.sgd(0.1)),
}


@pytest.mark.parametrize("name", ANY)
def test_a_forgotten_filter_is_named(name: str) -> None:
    model = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"must be arrays, but .*activation is .*equinox\.filter"):
        ANY[name].init(model)
    ANY[name].init(eqx.filter(model, eqx.is_inexact_array))


@pytest.mark.parametrize("name", ANY)
def test_a_random_key_is_named(name: str) -> None:
    params = {"mlp": {"kernel": jnp.ones((2, 2)), "dropout_key": jax.random.key(0)}}
    with pytest.raises(ValueError, match="but mlp/dropout_key is a PRNG key: leave it out"):
        ANY[name].init(params)


@pytest.mark.parametrize("name", ["stratopt", "aardvark"])
@pytest.mark.parametrize("leaf", [jnp.arange(3), 3, True, np.ones(2, bool)], ids=str)
def test_whole_numbers_and_flags_are_named(name: str, leaf: Any) -> None:
    params = {"mlp": {"kernel": jnp.ones((2, 2)), "steps": leaf}}
    with pytest.raises(ValueError, match=r"but mlp/steps is (int32|bool): .*optax\.masked"):
        ANY[name].init(params)


@pytest.mark.parametrize("name", ANY)
def test_shapes_numbers_and_masked_parts_are_parameters(name: str) -> None:
    params = {
        "mlp": jax.ShapeDtypeStruct((2, 2), jnp.float32),
        "head": 1.0,
        "embed": optax.MaskedNode(),
        "norm": None,
    }
    jax.eval_shape(ANY[name].init, params)


@pytest.mark.parametrize(
    "make", [scale_by_stratopt, functools.partial(scale_by_aardvark, clip_mode="per_tensor")]
)
def test_a_state_made_for_another_layout_is_refused(make: Any) -> None:
    params = {"layers": {"mlp": jnp.ones((3, 2, 2)), "norm": jnp.ones((3, 2))}}
    state = make(layers=Layers(stacked=["layers"])).init(params)
    other = make(layers=Layers(stacked=()))
    with pytest.raises(ValueError, match="the state is of 6 layers, and the gradients have 2"):
        other.update(params, state)


@pytest.mark.parametrize("make", [stratopt, aardvark])
@pytest.mark.parametrize("rate", [0.0, 0, lambda _: 0.0])
def test_a_learning_rate_of_zero_moves_nothing(make: Any, rate: Any) -> None:
    params = {"mlp": jnp.ones((2, 2))}
    tx = make(rate)
    updates, state = tx.update(params, tx.init(params), params)
    np.testing.assert_array_equal(optax.apply_updates(params, updates)["mlp"], params["mlp"])
    assert float(learning_rate_of(state)) == 0.0
