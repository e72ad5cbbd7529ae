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

from tests.support import fast, trees
from tests.support.optimizers import COMPLEX, CORE, OPTIMIZERS, TABLE, grads_of

pytestmark = pytest.mark.filterwarnings("ignore:No parameter is an output head")
every_entry = pytest.mark.parametrize("name", fast(TABLE, *CORE))


@every_entry
def test_trees_may_hold_nothing_scalars_and_empty_arrays(name: str) -> None:
    tx = TABLE[name](1e-2)
    params = {"mlp": None, "norm": {"scale": jnp.float32(2.0)}, "embed": jnp.ones((0, 3))}
    updates, state = tx.update(params, tx.init(params), params)
    assert updates["mlp"] is None
    assert updates["norm"]["scale"] < 0
    assert updates["embed"].shape == (0, 3)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(state))


@pytest.mark.parametrize("name", COMPLEX)
def test_complex_parameters_follow_their_gradients(name: str) -> None:
    params = [jnp.array([3 + 4j, 1j])]
    tx = TABLE[name](1e-2)
    updates, state = jax.jit(lambda p: tx.update(p, tx.init(p), p))(params)
    np.testing.assert_allclose(np.angle(-updates[0]), np.angle(params[0]), rtol=1e-5)
    chex.assert_trees_all_equal_shapes_and_dtypes(tx.init(params), state)


def test_clipping_entry_by_entry_refuses_complex_gradients() -> None:
    params = jnp.array([3 + 4j, 1j])
    tx = TABLE["aardvark, literal"](1e-2)
    with pytest.raises(ValueError, match="Complex values have no ordering"):
        tx.update(params, tx.init(params), params)


@every_entry
def test_masked_parameters_are_as_if_absent(name: str) -> None:
    tx = TABLE[name](1e-2)
    masked = optax.masked(tx, {"embed": True, "head": True, "layers": {"mlp": False}})

    params = {
        "embed": jnp.ones((4, 2)),
        "head": jnp.ones(3),
        "layers": {"mlp": jnp.ones((2, 4, 2))},
    }

    @jax.jit
    def both(params: Any) -> Any:
        g = grads_of(params)
        updates, _ = masked.update(g, masked.init(params), params)
        rest = {"embed": params["embed"], "head": params["head"]}
        return updates, tx.update(grads_of(rest), tx.init(rest), rest)[0] | {"layers": g["layers"]}

    chex.assert_trees_all_close(*both(params), rtol=1e-6)


@pytest.mark.parametrize(
    "name", fast([*OPTIMIZERS, "clip_by_layer_norm", "record_statistics"], *CORE)
)
def test_a_stack_of_layers_takes_the_steps_of_a_list(name: str) -> None:
    tx = TABLE[name](1e-2)
    model = trees.model()
    stacked = {"embed": model["embed"], "layers": {"mlp": model["layers"]["mlp"]["up"]}}

    def two_steps(params: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            params, state = carry
            updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=2)[0][0]

    found, expected = jax.jit(lambda: (two_steps(stacked), two_steps(trees.unstack(stacked))))()
    # Stochastic rounding draws other numbers: 0.4 % of two updates of 0.03.
    tolerance = 5e-4 if name == "stratopt, low precision" else 1e-6
    chex.assert_trees_all_close(found, trees.restack(expected), rtol=1e-5, atol=tolerance)


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
