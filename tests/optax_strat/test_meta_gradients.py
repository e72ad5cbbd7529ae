"""Gradients through an update: of a loss after some steps, by what came before them.

With ``eps_root`` above zero they are finite, also where a gradient is zero (tokens that do not
come, the A of a LoRA whose B starts at zero, a layer without influence), and they are what finite
differences of the loss say.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_strat import (
    ClipToParameters,
    ClipToReference,
    StratoptReadings,
    aardvark,
    clip_by_layer_norm,
    norms_by_layer_type,
    stratopt,
)
from tests.support import fast
from tests.support.versions import enable_x64

TOKENS = np.array([0, 2, 2, 5])
TARGETS = np.array([0.5, -0.3, 0.2, 1.0])
MIXING = StratoptReadings(gradient_mixing=0.5, momentum_adjustment=0.05)

OPTIMIZERS = {
    "stratopt": lambda rate, eps_root: stratopt(rate, eps_root=eps_root),
    "stratopt, literal": lambda rate, eps_root: stratopt(
        rate, eps_root=eps_root, layer_clip=None, scale_bounds=None
    ),
    "stratopt, factored": lambda rate, eps_root: stratopt(
        rate, eps_root=eps_root, second_moment="factored"
    ),
    "stratopt, mixing": lambda rate, eps_root: stratopt(rate, eps_root=eps_root, readings=MIXING),
    "stratopt, mean of layers": lambda rate, eps_root: stratopt(
        rate, eps_root=eps_root, reference="layer_mean", bias_correction=True
    ),
    "stratopt, clipped to the parameters": lambda rate, eps_root: stratopt(
        rate, eps_root=eps_root, layer_clip=ClipToParameters(0.01)
    ),
    "stratopt, clipped to the reference": lambda rate, eps_root: stratopt(
        rate, eps_root=eps_root, layer_clip=ClipToReference(0.7)
    ),
    "stratopt, clipped by type": lambda rate, eps_root: stratopt(
        rate, eps_root=eps_root, layer_clip={"mlp": 0.02}
    ),
    "aardvark": lambda rate, eps_root: aardvark(rate, eps_root=eps_root, clip=0.05),
    "aardvark, without clip": lambda rate, eps_root: aardvark(rate, eps_root=eps_root, clip=None),
    "aardvark, by tensor": lambda rate, eps_root: aardvark(
        rate, eps_root=eps_root, clip=0.05, clip_mode="per_tensor"
    ),
    "aardvark, by entry": lambda rate, eps_root: aardvark(
        rate, eps_root=eps_root, clip=0.03, clip_mode="elementwise"
    ),
    "aardvark, adaptive": lambda rate, eps_root: aardvark(
        rate, eps_root=eps_root, scaling="adaptive"
    ),
    "aardvark, factored": lambda rate, eps_root: aardvark(
        rate, eps_root=eps_root, second_moment="factored"
    ),
    "clipped SGD": lambda rate, eps_root: optax.chain(clip_by_layer_norm(0.05), optax.sgd(rate)),
    "SGD, clipped by type": lambda rate, eps_root: optax.chain(
        clip_by_layer_norm({"mlp": 0.05}), optax.sgd(rate)
    ),
    "SGD, clipped to the parameters": lambda rate, eps_root: optax.chain(
        clip_by_layer_norm(ClipToParameters(0.01)), optax.sgd(rate)
    ),
}


def parameters(dtype: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def array(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape) / 2, dtype)

    return {
        "embed": array(8, 3),
        "attn": {"lora_a": array(3, 2), "lora_b": jnp.zeros((2, 3), dtype)},
        "mlp": {"kernel": array(3, 4), "bias": jnp.zeros(4, dtype)},
        "mlp_without_influence": array(3, 3),
        "head": array(4, 1),
    }


def loss(params: Any) -> jax.Array:
    x = params["embed"][TOKENS]
    x = x + x @ params["attn"]["lora_a"] @ params["attn"]["lora_b"]
    x = jnp.tanh(x @ params["mlp"]["kernel"] + params["mlp"]["bias"])
    return jnp.mean(((x @ params["head"])[:, 0] - TARGETS) ** 2)


def loss_after(
    name: str, steps: int, params: Any, rate: Any, scale: Any, eps_root: float = 1e-8
) -> jax.Array:
    """The loss after some steps whose gradients are multiplied by a scale."""
    tx = OPTIMIZERS[name](rate, eps_root)
    state = tx.init(params)
    for _ in range(steps):
        g = jax.tree.map(lambda g: scale * g, jax.grad(loss)(params))
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
    return loss(params)


@pytest.mark.parametrize("steps", fast([1, 3], 1))
@pytest.mark.parametrize("name", fast(OPTIMIZERS, "stratopt", "aardvark"))
def test_meta_gradients_are_finite_and_those_of_finite_differences(name: str, steps: int) -> None:
    with enable_x64(True):
        params = parameters(jnp.float64)
        rng = np.random.default_rng(1)
        direction = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
        # The gradient of A is zero as long as B is, and a norm has a kink at zero.
        direction["attn"]["lora_b"] = jnp.zeros_like(params["attn"]["lora_b"])

        @jax.jit
        def along(t: jax.Array) -> jax.Array:
            moved = jax.tree.map(lambda p, d: p + t[0] * d, params, direction)
            # The larger eps_root, the less is a direction like a sign, which has no derivative.
            return loss_after(name, steps, moved, 0.02 * (1 + t[1]), 1 + t[2], eps_root=1e-2)

        found = jax.jit(jax.grad(along))(jnp.zeros(3))
        expected = [difference(along, axis) for axis in range(3)]
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-5)
        by_parameter = jax.jit(jax.grad(lambda p: loss_after(name, steps, p, 0.02, 1.0)))(params)
        assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(by_parameter))


def difference(function: Any, axis: int, step: float = 2e-3) -> float:
    """A derivative at zero, of the fourth order: norms are float32, and a step must not be tiny."""
    unit = jnp.zeros(3).at[axis].set(step)
    one = float(function(unit)) - float(function(-unit))
    two = float(function(2 * unit)) - float(function(-2 * unit))
    return (8 * one - two) / (12 * step)


@pytest.mark.parametrize("name", fast(OPTIMIZERS))
def test_in_float32_they_are_finite_too(name: str) -> None:
    params = parameters(jnp.float32)
    by_all = jax.grad(lambda *args: loss_after(name, 3, *args), argnums=(0, 1, 2))
    found = jax.jit(by_all)(params, 0.02, 1.0)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(found))


@pytest.mark.parametrize("size", fast([1e-25, 1e-12, 1.0, 1e12, 1e25], 1e-25, 1e25))
@pytest.mark.parametrize(
    "name", fast(["stratopt", "stratopt, factored", "aardvark", "clipped SGD"], "aardvark")
)
def test_gradients_of_any_size_leave_them_finite(name: str, size: float) -> None:
    if name == "aardvark" and size == 1e25:
        pytest.skip("the guard skips such a step")
    params = parameters(jnp.float32)
    tx = OPTIMIZERS[name](0.02, 1e-8)

    def after(scale: jax.Array) -> jax.Array:
        g = jax.tree.map(lambda g: scale * size * g, jax.grad(loss)(params))
        updates, _ = tx.update(g, tx.init(params), params)
        return loss(optax.apply_updates(params, updates))

    assert bool(jnp.isfinite(jax.jit(jax.grad(after))(1.0)))


def test_norms_by_layer_type_have_the_slope_zero_at_zero() -> None:
    tree = {"mlp": jnp.zeros(3), "head": jnp.array([3.0, 4.0])}
    slopes = jax.grad(lambda tree: sum(norms_by_layer_type(tree).values()))(tree)
    np.testing.assert_array_equal(slopes["mlp"], 0.0)
    np.testing.assert_allclose(slopes["head"], [0.6, 0.8], rtol=1e-6)
