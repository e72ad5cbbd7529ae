"""Fine-tuning by low-rank adapters: the base frozen, and B at 16 times the rate of A (LoRA+)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from optax_strat import Group, stratify

RATE, RATIO = 1e-3, 16.0


def lora_plus() -> optax.GradientTransformationExtraArgs:
    return stratify(
        {
            "lora_a": optax.scale_by_adam(),
            "lora_b": Group(optax.scale_by_adam(), rate=RATIO),
            ".*": Group(frozen=True),
        },
        learning_rate=RATE,
        clip=1.0,
    )


class Adapted(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(8, 4, rngs=rngs)
        self.up = nnx.LoRA(4, 2, 6, base_module=nnx.Linear(4, 6, rngs=rngs), rngs=rngs)
        self.head = nnx.LoRALinear(6, 8, lora_rank=2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(jax.nn.relu(self.up(self.embed(x))))


def in_dicts(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)

    def array(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    query = {"kernel": array(4, 4), "lora_a": array(4, 2), "lora_b": jnp.zeros((2, 4))}
    return {"embed": array(8, 4), "h": [{"attn": {"query": query}}], "lm_head": array(4, 8)}


@pytest.mark.parametrize("library", ["plain dicts", "nnx"])
def test_b_moves_16_times_as_far_as_a_and_the_base_not_at_all(library: str) -> None:
    """The first step of Adam is the rate itself, up or down, wherever there is a gradient."""
    params: Any = in_dicts()
    if library == "nnx":
        params = nnx.state(Adapted(nnx.Rngs(0)), nnx.Param)
    tx = lora_plus()
    g = jax.tree.map(lambda p: jnp.full_like(p, 0.5), params)
    updates, state = jax.jit(tx.update)(g, tx.init(params), params)
    kinds = {"lora_a": 0, "lora_b": 0, "frozen": 0}
    for path, u in jax.tree_util.tree_leaves_with_path(updates):
        name = jax.tree_util.keystr(path)
        kind = next((k for k in ("lora_a", "lora_b") if k in name), "frozen")
        kinds[kind] += 1
        size = {"lora_a": RATE, "lora_b": RATIO * RATE, "frozen": 0.0}[kind]
        np.testing.assert_allclose(u, -size, rtol=1e-4, err_msg=name)
    assert all(kinds.values())
    adapters = [x for x in jax.tree.leaves(state) if x.ndim]
    assert len(adapters) == 2 * (kinds["lora_a"] + kinds["lora_b"])


def test_an_nnx_optimizer_trains_the_adapters_alone() -> None:
    model = Adapted(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, lora_plus(), wrt=nnx.Param)
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
    tokens = jnp.arange(8)

    @nnx.jit
    def step(model: Adapted, optimizer: nnx.Optimizer) -> jax.Array:
        def loss(model: Adapted) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(model(tokens), tokens).mean()

        value, g = nnx.value_and_grad(loss)(model)
        optimizer.update(model, g)
        return value

    losses = [float(step(model, optimizer)) for _ in range(20)]
    assert losses[-1] < losses[0]
    moved = jax.tree.map(lambda x, y: bool(jnp.any(x != y)), before, nnx.state(model, nnx.Param))
    for path, has_moved in jax.tree_util.tree_leaves_with_path(moved):
        name = jax.tree_util.keystr(path)
        assert has_moved == ("lora_" in name), name


def test_a_base_whose_gradients_are_not_finite_does_not_reach_the_adapters() -> None:
    params = in_dicts()
    tx = lora_plus()
    g = in_dicts(seed=1)
    broken = {**g, "lm_head": jnp.full((4, 8), jnp.nan)}
    zeroed = {**g, "lm_head": jnp.zeros((4, 8)), "embed": jnp.zeros((8, 4))}
    got, expected = (tx.update(x, tx.init(params), params)[0] for x in (broken, zeroed))
    query, same = (u["h"][0]["attn"]["query"] for u in (got, expected))
    for name in ("lora_a", "lora_b", "kernel"):
        np.testing.assert_array_equal(query[name], same[name])
    np.testing.assert_array_equal(got["lm_head"], 0.0)
