"""Different updates for different layer types, and rules of one tensor on stacked layers."""

import warnings
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_strat import per_layer, scale_by_layer_type, stratify, warmup_cosine
from tests import trees


def ones(*names: str) -> dict[str, jax.Array]:
    return {name: jnp.ones((2, 2)) for name in names}


def apply(tx: optax.GradientTransformation, tree: Any) -> Any:
    return tx.update(tree, tx.init(tree), tree)[0]


def test_each_type_is_multiplied_by_its_number_and_the_rest_by_none() -> None:
    scaled = apply(
        scale_by_layer_type({"attention": 1.5, "norm": 0.0}), ones("attn", "ln_1", "mlp")
    )
    assert {name: float(x[0, 0]) for name, x in scaled.items()} == {
        "attn": 1.5,
        "ln_1": 0.0,
        "mlp": 1.0,
    }


def test_a_type_may_have_a_transformation() -> None:
    tx = scale_by_layer_type({"mlp": optax.clip(0.25), "head": 2.0})
    scaled = apply(tx, ones("mlp", "lm_head"))
    assert float(scaled["mlp"][0, 0]) == 0.25
    assert float(scaled["lm_head"][0, 0]) == 2.0


def test_numbers_are_stateless() -> None:
    assert not jax.tree.leaves(scale_by_layer_type({"mlp": 2.0}).init(trees.model()))


def test_a_number_may_be_a_tracer() -> None:
    scale = jax.jit(lambda x: apply(scale_by_layer_type({"mlp": x}), ones("mlp"))["mlp"])
    np.testing.assert_array_equal(scale(3.0), 3.0)


def test_normalized_numbers_have_a_mean_of_one_by_parameters() -> None:
    tree = {"mlp": jnp.ones(30), "head": jnp.ones(10)}  # the mean of 1 and 3 is 1.5 here
    scaled = apply(scale_by_layer_type({"head": 3.0}, normalize=True), tree)
    np.testing.assert_allclose(scaled["mlp"], 1 / 1.5, rtol=1e-6)
    np.testing.assert_allclose(scaled["head"], 3 / 1.5, rtol=1e-6)


def test_dtypes_stay() -> None:
    for dtype in (jnp.float16, jnp.bfloat16):
        tree = trees.model(dtype)
        tx = scale_by_layer_type({"mlp": 1.3, "head": 0.7})
        scaled = jax.eval_shape(lambda tree, tx=tx: apply(tx, tree), tree)
        chex.assert_trees_all_equal_shapes_and_dtypes(scaled, tree)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: scale_by_layer_type({"mpl": 1.0}), "unknown layer type 'mpl'; allowed are"),
        (lambda: scale_by_layer_type({"mlp": -1.0}), "The scale of 'mlp' must be a finite number"),
        (
            lambda: scale_by_layer_type({"mlp": optax.clip(1.0)}, normalize=True),
            "normalize=True needs numbers",
        ),
        (lambda: apply(scale_by_layer_type({"mlp": 1.0}), ones("adapter")), "adapter"),
        (lambda: stratify({"mpl": optax.sgd(1.0)}), "unknown layer type 'mpl'"),
        (
            lambda: stratify({"mlp": optax.sgd(1.0), ("mlp", "head"): optax.sgd(1.0)}),
            "'mlp' stands in two groups",
        ),
        (
            lambda: stratify({"mlp": optax.sgd(1.0)}).init({"mlp": 1.0, "embed": {"w": 1.0}}),
            r"no transformation for these parameters:\n  embed/w \(embedding\)",
        ),
    ],
)
def test_bad_arguments_are_refused_with_one_sentence(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_stratify_gives_each_group_its_own_transformation() -> None:
    tx = stratify({("attention", "mlp"): optax.sgd(1.0), "head": optax.sgd(0.1)})
    updates = apply(tx, ones("attn", "mlp", "lm_head"))
    assert {name: round(float(u[0, 0]), 3) for name, u in updates.items()} == {
        "attn": -1.0,
        "mlp": -1.0,
        "lm_head": -0.1,
    }


def test_a_group_shares_one_state() -> None:
    tx = stratify({("attention", "mlp", "head"): optax.scale_by_adam()})
    params = ones("attn", "mlp", "lm_head")
    state = tx.init(params)
    assert sum(x.size for x in jax.tree.leaves(state)) == 2 * 12 + 1  # two moments, one count
    expected = apply(optax.scale_by_adam(), params)
    chex.assert_trees_all_close(apply(tx, params), expected)


def test_a_hybrid_of_muon_and_adam_trains_under_one_clip_and_one_schedule() -> None:
    matrix = optax.contrib.MuonDimensionNumbers()
    muon = optax.contrib.scale_by_muon(
        weight_dimension_numbers=lambda tree: jax.tree.map(lambda _: matrix, tree)
    )
    hidden = stratify({("attention", "mlp"): muon, ("embedding", "norm"): optax.scale_by_adam()})
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        hidden,
        optax.scale_by_learning_rate(warmup_cosine(0.05, 60, warmup_steps=5)),
    )
    params = {"embed": jnp.zeros((6, 4)), "mlp": jnp.zeros((4, 4)), "norm": jnp.ones(4)}
    target = jax.random.normal(jax.random.key(0), (6, 4))

    def loss(params: Any) -> jax.Array:
        return jnp.mean(((params["embed"] @ params["mlp"]) * params["norm"] - target) ** 2)

    params["mlp"] = jnp.eye(4)

    def step(carry: Any, _: Any) -> Any:
        value, g = jax.value_and_grad(loss)(carry[0])
        updates, state = tx.update(g, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), value

    _, losses = jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), length=60))()
    assert float(losses[-1]) < 0.3 * float(losses[0])


@pytest.mark.parametrize("rule", [optax.scale_by_trust_ratio, optax.adaptive_grad_clip])
def test_per_layer_makes_a_stack_act_as_a_list(rule: Any) -> None:
    inner = rule(0.01) if rule is optax.adaptive_grad_clip else rule()
    params = trees.model()
    g = trees.model(seed=5)
    tx = per_layer(inner)

    @jax.jit
    def both(params: Any, g: Any) -> Any:
        stacked, _ = tx.update(g, tx.init(params), params)
        params, g = trees.unstack(params), trees.unstack(g)
        listed, _ = inner.update(g, inner.init(params), params)
        return stacked, trees.restack(listed)

    chex.assert_trees_all_close(*both(params, g), rtol=1e-5)


def test_warmup_cosine_rises_to_its_peak_and_falls_to_a_tenth() -> None:
    schedule = warmup_cosine(1.0, 1000)
    rates = np.array([schedule(step) for step in (0, 50, 100, 550, 1000, 2000)])
    np.testing.assert_allclose(rates, [0.0, 0.5, 1.0, 0.55, 0.1, 0.1], atol=1e-6)
    assert float(warmup_cosine(1.0, 1_000_000)(2000)) == 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(warmup_cosine(1.0, 10, warmup_steps=0)(0)) == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"peak": 0.0, "steps": 10}, "peak"),
        ({"peak": 1.0, "steps": 0}, "steps"),
        ({"peak": 1.0, "steps": 10, "warmup_steps": 10}, "warmup_steps must be below steps = 10"),
        ({"peak": 1.0, "steps": 10, "warmup_steps": -1}, "warmup_steps"),
        ({"peak": 1.0, "steps": 10, "final_fraction": -0.1}, "final_fraction"),
    ],
)
def test_warmup_cosine_refuses_what_is_no_schedule(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        warmup_cosine(**arguments)
