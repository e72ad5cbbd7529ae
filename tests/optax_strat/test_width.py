"""muP's learning rates for Adam: by hand, and by a coordinate check."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

from optax_strat import Layers, scale_by_width
from tests.support import trees


def language_model(width: int, layers: int = 2, heads: int = 2) -> dict[str, Any]:
    size = width // heads
    return {
        "embed": {"embedding": jnp.ones((16, width))},
        "layers": {
            "norm": {"scale": jnp.ones((layers, width))},
            "attention": {
                "query": {
                    "kernel": jnp.ones((layers, width, heads, size)),
                    "bias": jnp.ones((layers, heads, size)),
                },
                "out": {"kernel": jnp.ones((layers, heads, size, width))},
            },
            "mlp": {
                "up": {"kernel": jnp.ones((layers, width, 4 * width))},
                "experts": {"down": jnp.ones((layers, 3, 4 * width, width))},
            },
        },
        "head": {"kernel": jnp.ones((width, 16))},
    }


def multipliers(base: Any, params: Any, **arguments: Any) -> dict[str, float]:
    tx = scale_by_width(base, **arguments)
    ones = jax.tree.map(jnp.ones_like, params)
    scaled, state = tx.update(ones, tx.init(params))
    assert state == optax.EmptyState()
    return {path: float(x.ravel()[0]) for path, x in trees.by_path(scaled).items()}


@pytest.mark.parametrize("layers", [2, 5])
def test_matrices_get_base_fan_in_over_fan_in_and_all_others_1(layers: int) -> None:
    """Table 3 of Tensor Programs V. Another number of stacked layers changes nothing."""
    base = jax.eval_shape(lambda: language_model(8))
    assert multipliers(base, language_model(32, layers, heads=4)) == {
        "embed/embedding": 1.0,
        "layers/norm/scale": 1.0,
        "layers/attention/query/kernel": 8 / 32,
        "layers/attention/query/bias": 1.0,
        "layers/attention/out/kernel": 8 / 32,
        "layers/mlp/up/kernel": 8 / 32,
        "layers/mlp/experts/down": 32 / 128,
        "head/kernel": 8 / 32,
    }


def test_a_matrix_whose_input_does_not_grow_keeps_its_rate() -> None:
    base = {"mlp": {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 1))}}
    wide = {"mlp": {"in": jnp.ones((3, 64)), "out": jnp.ones((64, 1))}}
    assert multipliers(base, wide) == {"mlp/in": 1.0, "mlp/out": 0.125}


def test_the_weights_of_pytorch_and_equinox_have_their_input_last() -> None:
    base = {"mlp.up.weight": jnp.ones((8, 2))}
    assert multipliers(base, {"mlp.up.weight": jnp.ones((32, 4))}) == {"mlp.up.weight": 0.5}


def test_the_base_model_itself_is_not_changed() -> None:
    params = language_model(8)
    tx = scale_by_width(params)
    scaled, _ = tx.update(params, tx.init(params))
    chex.assert_trees_all_equal(scaled, params)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({"embed": jnp.ones((4, 2))}, r"mlp, of the shape \(2, 4\), it has none"),
        ({"mlp": jnp.ones(2)}, r"mlp, of the shape \(2, 4\), it has the shape \(2,\)"),
        ({"mlp": {"kernel": jnp.ones((2, 4))}}, r"mlp, of the shape \(2, 4\), it has none"),
    ],
)
def test_a_base_model_of_other_parameters_is_refused(base: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"same parameters, but for {message}"):
        scale_by_width(base).init({"mlp": jnp.ones((2, 4))})


def test_what_no_rule_names_is_refused() -> None:
    params = {"mixer": jnp.ones((2, 4))}
    with pytest.raises(ValueError, match="No rule gives a layer type"):
        scale_by_width(params).init(params)
    scale_by_width(params, Layers(unmatched="other")).init(params)


def test_parts_of_a_model_may_be_masked() -> None:
    base, params = language_model(8), language_model(16)
    mask = jax.tree.map(lambda _: False, params) | {"head": True}
    tx = optax.masked(scale_by_width(base), mask)
    scaled, _ = tx.update(params, tx.init(params))
    assert float(scaled["head"]["kernel"][0, 0]) == 0.5
    assert float(scaled["layers"]["mlp"]["up"]["kernel"][0, 0, 0]) == 1.0


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "complex64"])
def test_it_keeps_dtypes_and_shardings(dtype: str) -> None:
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        kernel = jax.device_put(jnp.ones((16, 8), dtype), PartitionSpec("fsdp"))
        tx = scale_by_width({"mlp": jnp.ones((4, 2))})
        scaled, _ = jax.jit(lambda p: tx.update(p, tx.init(p)))({"mlp": kernel})
        assert jax.typeof(scaled["mlp"]) == jax.typeof(kernel)


# The coordinate check: how much a few steps of Adam change activations, at several widths. The
# model is a residual network with one layer of attention over its tokens, initialized as muP says.

WIDTHS = (64, 128, 256, 512)
VOCABULARY, TOKENS, HEADS, STEPS = 32, 8, 4, 4


def network(width: int) -> dict[str, Any]:
    keys = iter(jax.random.split(jax.random.key(0), 8))

    def hidden(fan_in: int, fan_out: int) -> jax.Array:
        return jax.random.normal(next(keys), (fan_in, fan_out)) / fan_in**0.5

    return {
        "embed": jax.random.normal(next(keys), (VOCABULARY, width)),
        "attention": {name: hidden(width, width) for name in ("query", "key", "value", "out")},
        "mlp": {"up": hidden(width, 2 * width), "down": hidden(2 * width, width)},
        "head": hidden(width, VOCABULARY) / width**0.5,
    }


def activations(params: Any, tokens_T: jax.Array) -> dict[str, jax.Array]:
    attention, mlp = params["attention"], params["mlp"]
    x_TD = params["embed"][tokens_T]
    size = x_TD.shape[1] // HEADS
    q, k, v = (
        (x_TD @ attention[name]).reshape(TOKENS, HEADS, size) for name in ("query", "key", "value")
    )
    scores = jnp.einsum("qhd,khd->hqk", q, k) / size  # 1/d
    mixed = jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores), v).reshape(x_TD.shape)
    y_TD = x_TD + mixed @ attention["out"]
    z_TD = y_TD + jax.nn.relu(y_TD @ mlp["up"]) @ mlp["down"]
    return {"attention": y_TD, "mlp": z_TD, "logits": z_TD @ params["head"]}


def changes(width: int, with_it: bool) -> dict[str, float]:
    """The root mean square of the change of each activation in a few steps."""
    rng = np.random.default_rng(0)
    tokens_T = jnp.asarray(rng.permutation(VOCABULARY)[:TOKENS])
    targets_T = jnp.asarray(rng.integers(VOCABULARY, size=TOKENS))
    scale = scale_by_width(jax.eval_shape(lambda: network(WIDTHS[0])))
    tx = optax.chain(optax.scale_by_adam(), scale if with_it else optax.identity())

    def loss(params: Any) -> jax.Array:
        logits_TV = activations(params, tokens_T)["logits"]
        return optax.softmax_cross_entropy_with_integer_labels(logits_TV, targets_T).mean()

    @jax.jit
    def run() -> Any:
        params = network(width)

        def step(carry: Any, _: Any) -> Any:
            updates, state = tx.update(jax.grad(loss)(carry[0]), carry[1])
            moved = optax.tree.add_scale(carry[0], -1e-3, updates)
            return (moved, state), None

        (after, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=STEPS)
        pair = activations(params, tokens_T), activations(after, tokens_T)
        return jax.tree.map(lambda x, y: jnp.sqrt(jnp.mean((x - y) ** 2)), *pair)

    return {name: float(change) for name, change in run().items()}


def slopes(with_it: bool) -> dict[str, float]:
    """By which power of the width the changes grow."""
    found = [changes(width, with_it) for width in WIDTHS]
    return {
        name: float(np.polyfit(np.log(WIDTHS), np.log([f[name] for f in found]), 1)[0])
        for name in found[0]
    }


@pytest.mark.slow
def test_with_it_activations_change_alike_at_every_width() -> None:
    assert all(abs(slope) < 0.15 for slope in slopes(True).values()), slopes(True)


@pytest.mark.slow
def test_without_it_they_change_more_the_wider_the_model() -> None:
    assert all(slope > 0.4 for slope in slopes(False).values()), slopes(False)
