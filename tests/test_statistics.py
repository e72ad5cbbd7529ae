"""Norms by layer type, kept in the state."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_strat import (
    LayerType,
    aardvark,
    norms_by_layer_type,
    read_statistics,
    record_statistics,
    stratopt,
)
from tests import trees


def test_norms_are_those_of_the_last_step() -> None:
    tx = record_statistics(aardvark(0.1))
    params = trees.model()
    state = tx.init(params)
    update = jax.jit(tx.update)
    for seed in (1, 2):
        g = trees.model(seed=seed)
        updates, state = update(g, state, params)
    found = read_statistics(state)
    for name, tree in (("gradient", g), ("update", updates), ("parameter", params)):
        assert list(found[name]) == list(LayerType)
        assert float(found[name].pop("other")) == 0.0
        chex.assert_trees_all_close(found[name], norms_by_layer_type(tree), rtol=1e-6)


def test_recording_changes_no_update() -> None:
    params = trees.model()
    plain, recorded = stratopt(0.1), record_statistics(stratopt(0.1))
    expected, _ = plain.update(params, plain.init(params), params)
    updates, _ = recorded.update(params, recorded.init(params), params)
    chex.assert_trees_all_equal(updates, expected)


def test_a_step_returns_them_as_metrics_from_inside_jit() -> None:
    tx = optax.chain(optax.clip_by_global_norm(1.0), record_statistics(optax.sgd(0.5)))
    params = {"mlp": jnp.array([3.0, 4.0])}

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), read_statistics(state)

    _, metrics = step(params, tx.init(params))
    assert isinstance(metrics["gradient"]["mlp"], jax.Array)
    np.testing.assert_allclose(metrics["gradient"]["mlp"], 1.0, rtol=1e-6)  # after the clip outside
    np.testing.assert_allclose(metrics["update"]["mlp"], 0.5, rtol=1e-6)
    np.testing.assert_allclose(metrics["parameter"]["mlp"], 5.0, rtol=1e-6)


def test_without_parameters_their_norms_stay_zero() -> None:
    tx = record_statistics(optax.sgd(0.1))
    _, state = tx.update({"mlp": jnp.ones(2)}, tx.init({"mlp": jnp.ones(2)}))
    assert float(read_statistics(state)["parameter"]["mlp"]) == 0.0


@pytest.mark.parametrize("count", [0, 2])
def test_the_reader_wants_exactly_one(count: int) -> None:
    tx = optax.chain(*[record_statistics(optax.sgd(0.1))] * count, optax.sgd(0.1))
    with pytest.raises(ValueError, match=f"but found {count}"):
        read_statistics(tx.init({"mlp": jnp.ones(2)}))
