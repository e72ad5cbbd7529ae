"""Different updates for different layer types, and rules of one tensor on stacked layers."""

import warnings
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_strat import clip_by_layer_norm, per_layer, scale_by_layer_type, warmup_cosine
from tests.support import trees


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


def test_numbers_need_no_state_but_the_one_to_read_them_from() -> None:
    state = scale_by_layer_type({"mlp": 2.0, "bias": 3.0}).init(trees.model())
    # No parameter is a bias.
    assert state.multipliers == {"*": 1.0, "mlp": 2.0, "bias": 1.0}
    assert len(jax.tree.leaves(state)) == 3


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
        scales = {"mlp": 1.3, "head": np.float32(0.7), "embedding": jnp.float32(2.0)}
        tx = scale_by_layer_type(scales)
        scaled = jax.eval_shape(lambda tree, tx=tx: apply(tx, tree), tree)
        chex.assert_trees_all_equal_shapes_and_dtypes(scaled, tree)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: scale_by_layer_type({"mpl": 1.0}),
            "unknown layer type 'mpl'; known are .*; did you mean 'mlp'",
        ),
        (lambda: scale_by_layer_type({"mlp": -1.0}), "The scale of 'mlp' must be a finite number"),
        (lambda: scale_by_layer_type({"mlp": None}), "The scale of 'mlp' must be a number"),
        (
            lambda: scale_by_layer_type({"mlp": optax.clip(1.0)}, normalize=True),
            "normalize=True needs numbers",
        ),
        (lambda: apply(scale_by_layer_type({"mlp": 1.0}), ones("adapter")), "adapter"),
    ],
)
def test_bad_arguments_are_refused_with_one_sentence(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


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


def test_per_layer_passes_extra_arguments_on() -> None:
    def update(updates: Any, state: Any, params: Any = None, *, value: Any, **_: Any) -> Any:
        return jax.tree.map(lambda u: u * value, updates), state

    tx = per_layer(optax.GradientTransformationExtraArgs(optax.init_empty_state, update))
    tree = {"layers": {"mlp": jnp.ones((2, 3, 3))}, "head": jnp.ones(3)}
    updates, _ = tx.update(tree, tx.init(tree), tree, value=2.0, unexpected=1)
    chex.assert_trees_all_equal(updates, jax.tree.map(lambda x: 2 * x, tree))


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


LABELS = {"attn": "encoder", "mlp": "decoder"}


def by_function(tree: Any) -> Any:
    return {name: LABELS[name] for name in tree}


BY_TYPE = {
    "max_norm": lambda numbers: clip_by_layer_norm(numbers, layers=by_function),
    "scale_by_layer_type": lambda numbers: scale_by_layer_type(numbers, by_function),
}


@pytest.mark.parametrize("what", BY_TYPE)
@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"encodr": 2.0, "decoder": 1.0}, "'encodr' of {}; did you mean 'encoder'"),
        ({"vision": 2.0}, "{} does nothing: .* of 'vision'; layers gives 'encoder', 'decoder'"),
    ],
)
def test_beside_a_function_a_name_that_means_nothing_is_a_warning_at_init(
    what: str, numbers: Any, message: str
) -> None:
    with pytest.warns(UserWarning, match=message.format(what)) as caught:
        BY_TYPE[what](numbers).init(ones("attn", "mlp"))
    assert len(caught) == 1


@pytest.mark.parametrize("what", BY_TYPE)
def test_a_type_that_is_absent_beside_one_that_is_not_or_hidden_by_a_mask_is_no_slip(
    what: str,
) -> None:
    params = ones("attn", "mlp")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BY_TYPE[what]({"vision": 2.0, "encoder": 1.0}).init(params)
        BY_TYPE[what]({"encoder": 2.0, "decoder": 1.0}).init(ones("mlp"))
        BY_TYPE[what]({"vision": 2.0}).init({})
        BY_TYPE[what]({"encoder": 2.0}).init({**params, "attn": optax.MaskedNode()})
