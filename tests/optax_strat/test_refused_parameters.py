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
    Group,
    Layers,
    aardvark,
    clip_by_layer_norm,
    learning_rate_of,
    repair_nonfinite,
    scale_by_aardvark,
    scale_by_layer_type,
    scale_by_stratopt,
    skip_nonfinite,
    stratify,
    stratopt,
)

OTHER = Layers(unmatched="other")

ANY = {
    "stratopt": stratopt(0.1, layers=OTHER),
    "aardvark": aardvark(0.1, layers=OTHER),
    "clip_by_layer_norm": clip_by_layer_norm(1.0, layers=OTHER),
    "skip_nonfinite": skip_nonfinite(optax.sgd(0.1)),
    "repair_nonfinite": repair_nonfinite(),
    "scale_by_layer_type": scale_by_layer_type({"mlp": 2.0}, OTHER),
    "stratify": stratify({"mlp": optax.scale_by_adam(), ".*": 0.1}, OTHER, clip=1.0),
}
NEEDS_GRADIENTS = ["stratopt", "aardvark", "clip_by_layer_norm", "scale_by_layer_type", "stratify"]


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


@pytest.mark.parametrize("name", NEEDS_GRADIENTS)
@pytest.mark.parametrize("leaf", [jnp.arange(3), 3, True, np.ones(2, bool)], ids=str)
def test_whole_numbers_and_flags_are_named(name: str, leaf: Any) -> None:
    params = {"mlp": {"kernel": jnp.ones((2, 2)), "steps": leaf}}
    with pytest.raises(ValueError, match=r"but mlp/steps is (int32|bool): .*optax\.masked"):
        ANY[name].init(params)


@pytest.mark.parametrize("name", ANY)
def test_a_text_among_parameters_is_named(name: str) -> None:
    params = {"mlp": {"kernel": jnp.ones((2, 2)), "activation": "gelu"}}
    with pytest.raises(ValueError, match="must be arrays, but mlp/activation is 'gelu': leave it"):
        ANY[name].init(params)


def test_without_default_rules_too_a_key_is_no_parameter_to_add_a_rule_for() -> None:
    params = {"mlp": jnp.ones((2, 2)), "rng": jax.random.key(0)}
    for tx in (stratify({"mlp": 1.0}), scale_by_layer_type({"mlp": 2.0})):
        with pytest.raises(ValueError, match="but rng is a PRNG key"):
            tx.init(params)


def test_a_frozen_group_may_have_whole_numbers_but_no_functions() -> None:
    tx = stratify({"mlp": optax.scale_by_adam(), "steps": Group(frozen=True)}, clip=1.0)
    params = {"mlp": jnp.ones((2, 2)), "steps": jnp.arange(3)}
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_array_equal(optax.apply_updates(params, updates)["steps"], jnp.arange(3))
    with pytest.raises(ValueError, match="but steps is "):
        tx.init({**params, "steps": jax.nn.relu})
    with pytest.raises(ValueError, match="mlp is int32"):
        tx.init({**params, "mlp": jnp.arange(3)})


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
