"""Parameters of every kind and from every library pass through the optimizers."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.optimizers import TABLE

every_entry = pytest.mark.parametrize("name", TABLE)


@every_entry
@pytest.mark.filterwarnings("ignore:No parameter is an output head")
def test_trees_may_hold_nothing_scalars_and_empty_arrays(name: str) -> None:
    tx = TABLE[name](1e-2)
    params = {"mlp": None, "norm": {"scale": jnp.float32(2.0)}, "embed": jnp.ones((0, 3))}
    updates, state = tx.update(params, tx.init(params), params)
    assert updates["mlp"] is None
    assert updates["norm"]["scale"] < 0
    assert updates["embed"].shape == (0, 3)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(state))


@pytest.mark.parametrize("name", ["stratopt", "stratopt, mixing", "aardvark"])
def test_complex_parameters_follow_their_gradients(name: str) -> None:
    params = [jnp.array([3 + 4j, 1j])]
    tx = TABLE[name](1e-2)
    updates, state = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(np.angle(-updates[0]), np.angle(params[0]), rtol=1e-5)
    chex.assert_trees_all_equal_shapes_and_dtypes(tx.init(params), state)


class Tiny(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(8, 4, rngs=rngs)
        self.mlp = nnx.Linear(4, 4, rngs=rngs)
        self.lm_head = nnx.Linear(4, 8, use_bias=False, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return self.lm_head(jax.nn.relu(self.mlp(self.embed(tokens))))


@pytest.mark.parametrize("name", ["stratopt, by type", "aardvark, adaptive"])
def test_nnx_optimizers_and_states_train_as_dicts_do(name: str) -> None:
    tx = TABLE[name](1e-2)
    tokens = jnp.arange(8)

    def loss(model: Tiny) -> jax.Array:
        return optax.losses.softmax_cross_entropy_with_integer_labels(model(tokens), tokens).mean()

    @nnx.jit
    def train(model: Tiny, held: nnx.Optimizer) -> None:
        held.update(model, nnx.grad(loss)(model))

    model = Tiny(nnx.Rngs(0))
    train(model, nnx.Optimizer(model, tx, wrt=nnx.Param))

    graph, state = nnx.split(Tiny(nnx.Rngs(0)))
    params = nnx.to_pure_dict(state)

    @jax.jit
    def step(params: Any) -> Any:
        g = jax.grad(lambda p: loss(nnx.merge(graph, nnx.State(p))))(params)
        updates, _ = tx.update(g, tx.init(params), params)
        return optax.apply_updates(params, updates)

    chex.assert_trees_all_close(
        nnx.to_pure_dict(nnx.state(model, nnx.Param)), step(params), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", ["stratopt", "aardvark"])
def test_linen_boxes_stay_boxes(name: str) -> None:
    params = {"mlp": nn.Partitioned(jnp.ones((2, 2)), names=("a", "b")), "norm": jnp.ones(2)}
    tx = TABLE[name](1e-2)
    updates, _ = tx.update(params, tx.init(params), params)
    expected, _ = tx.update(nn.unbox(params), tx.init(nn.unbox(params)), nn.unbox(params))
    assert isinstance(updates["mlp"], nn.Partitioned)
    chex.assert_trees_all_equal(nn.unbox(updates), expected)
