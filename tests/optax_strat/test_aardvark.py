"""Aardvark: numbers worked out by hand, and what each option changes."""

import math
import warnings
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_strat import (
    MULTIPLIERS,
    Adaptive,
    AdaptLayerTypesState,
    Layers,
    ScaleByAardvarkState,
    aardvark,
    decays,
    find_states,
    layer_types,
    scale_by_aardvark,
)
from optax_strat._scaling import adaptive_multipliers
from tests.support import trees

ONES = dict.fromkeys(MULTIPLIERS, 1.0)
LITERAL: dict[str, Any] = {"clip": None, "nonfinite": None, "weight_decay": 0.0}


def one_step(tx: optax.GradientTransformation, g: Any, params: Any = None) -> Any:
    params = g if params is None else params
    return jax.jit(lambda g, state, params: tx.update(g, state, params)[0])(
        g, tx.init(params), params
    )


def test_the_first_step_is_that_worked_out_by_hand() -> None:
    params = {name: jnp.array([[2.0]]) for name in ("embed", "attn", "mlp", "lm_head", "norm")}
    grads = {name: jnp.array([[float(i)]]) for i, name in enumerate(sorted(params), start=1)}
    # The global norm √55 is clipped to 1; Adam's first step is the sign, +1 everywhere. Matrices
    # decay by 0.1 · 2; eq. 1's multipliers apply to both; the rate is 0.01.
    tx = aardvark(0.01)
    updates, state = tx.update(grads, tx.init(params), params)
    expected = {"embed": -0.012, "attn": -0.018, "mlp": -0.0144, "lm_head": -0.0216, "norm": -0.01}
    for name, value in expected.items():
        np.testing.assert_allclose(updates[name], [[value]], rtol=2e-5)
    (moments,) = find_states(state, ScaleByAardvarkState)
    np.testing.assert_allclose(moments.mu["embed"], [[0.1 * 2 / math.sqrt(55)]], rtol=1e-6)
    np.testing.assert_allclose(moments.nu["embed"], [[0.001 * 4 / 55]], rtol=1e-6)


def test_with_ones_for_multipliers_it_is_adamw() -> None:
    params = trees.model()
    grads = trees.gradients(params, 20)
    ours = aardvark(1e-2, multipliers=ONES, clip=None, nonfinite=None, weight_decay=0.1)
    theirs = optax.adamw(1e-2, weight_decay=0.1, mask=decays)

    def train(tx: optax.GradientTransformation) -> Any:
        def step(carry: Any, g: Any) -> tuple[Any, None]:
            updates, state = tx.update(g, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        return jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), grads)[0][0])()

    chex.assert_trees_all_close(train(ours), train(theirs), rtol=1e-6, atol=1e-6)


def test_a_guard_on_good_gradients_changes_nothing() -> None:
    g = trees.model()
    guarded, free = (one_step(aardvark(0.1, nonfinite=mode), g) for mode in ("skip", None))
    chex.assert_trees_all_equal(guarded, free)


def test_there_is_one_set_of_moments_and_one_count() -> None:
    params = trees.model()
    state = aardvark(0.1).init(params)
    assert len(find_states(state, ScaleByAardvarkState)) == 1
    sizes = sum(x.size for x in jax.tree.leaves(state))
    # Fifteen numbers more: the count, the clip factor, eight multipliers, the learning rate and its
    # count, and the guard's three.
    assert sizes == 2 * sum(x.size for x in jax.tree.leaves(params)) + 15


def test_multipliers_are_equation_1() -> None:
    g = trees.model()
    updates = one_step(aardvark(1.0, **LITERAL), g)
    kinds = layer_types(g)
    chex.assert_trees_all_close(
        jax.tree.map(jnp.abs, updates),
        jax.tree.map(lambda x, kind: jnp.full_like(x, MULTIPLIERS[kind]), g, kinds),
        rtol=1e-4,
    )
    assert (
        MULTIPLIERS | {"embedding": 1.0, "attention": 1.5, "mlp": 1.2, "head": 1.8} == MULTIPLIERS
    )


def test_multipliers_given_replace_those_of_their_types_only() -> None:
    g = {"attn": jnp.ones((1, 1)), "mlp": jnp.ones((1, 1))}
    updates = one_step(aardvark(1.0, multipliers={"mlp": 3.0}, **LITERAL), g)
    np.testing.assert_allclose(updates["mlp"] / updates["attn"], [[2.0]], rtol=1e-6)


def test_adaptive_reproduces_equation_1_from_table_2() -> None:
    """Exponent 2/3 on the paper's own norms: 1.00, 1.45, 1.24, 1.78 for 1.0, 1.5, 1.2, 1.8."""
    found = adaptive_multipliers(jnp.array([0.47, 0.82, 0.65, 1.12]), (0.1, 10.0))
    np.testing.assert_allclose(found, [1.0, 1.45, 1.24, 1.78], atol=5e-3)
    np.testing.assert_allclose(found, [1.0, 1.5, 1.2, 1.8], rtol=0.04)


def test_adaptive_measures_the_gradients_of_its_types() -> None:
    def of_norm(norm: float) -> jax.Array:
        return jnp.full((2, 2), norm / 2)

    # Two attention tensors whose mean norm is Table 2's; norms and biases stay at 1.
    g = {
        "embed": of_norm(0.47),
        "attn": {"query": of_norm(0.80), "out": of_norm(0.84), "bias": jnp.full(2, 9.0)},
        "mlp": of_norm(0.65),
        "head": of_norm(1.12),
    }
    tx = aardvark(1.0, scaling="adaptive", weight_decay=0.0)
    updates, state = tx.update(g, tx.init(g), g)
    (adapted,) = find_states(state, AdaptLayerTypesState)
    np.testing.assert_allclose(adapted.norms, [0.47, 0.82, 0.65, 1.12], rtol=1e-6)
    np.testing.assert_allclose(adapted.multipliers, [1.0, 1.5, 1.2, 1.8], rtol=0.04)
    np.testing.assert_allclose(updates["attn"]["query"], -adapted.multipliers[1], rtol=1e-4)
    np.testing.assert_allclose(updates["attn"]["bias"], -1.0, rtol=1e-4)


def test_adaptive_keeps_to_its_bounds_and_survives_a_silent_embedding() -> None:
    loud = {"embed": jnp.full((2, 2), 1e-4), "head": jnp.full((2, 2), 1e4)}
    bounded = Adaptive(scale_bounds=(0.5, 2.0))
    tx = aardvark(1.0, scaling=bounded, weight_decay=0.0, clip=None)
    np.testing.assert_allclose(one_step(tx, loud)["head"], -2.0, rtol=1e-4)
    np.testing.assert_allclose(one_step(tx, loud)["embed"], -0.5, rtol=1e-3)
    silent = {"embed": jnp.zeros((2, 2)), "head": jnp.ones((2, 2))}
    # The head is measured against itself alone, and has what Table 2 gives it.
    np.testing.assert_allclose(one_step(tx, silent)["head"], -1.78, rtol=1e-2)


def test_one_small_norm_does_not_take_all_other_types_to_the_bound() -> None:
    """Against the embedding's norm alone every other type would have 10, the highest allowed."""
    table_2 = jnp.array([0.47, 0.82, 0.65, 1.12])
    found = adaptive_multipliers(table_2 * jnp.array([1e-3, 1, 1, 1]), (0.1, 10.0))
    assert float(found[0]) == pytest.approx(0.1)
    assert all(1.0 < float(x) < 7.0 for x in found[1:])
    np.testing.assert_allclose(found[1:] / found[1], [1.0, 1.24 / 1.45, 1.78 / 1.45], rtol=5e-3)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_adaptive_multipliers_do_not_depend_on_the_size_of_all_gradients(scale: float) -> None:
    table_2 = jnp.array([0.47, 0.82, 0.65, 1.12])
    expected = adaptive_multipliers(table_2, None)
    np.testing.assert_allclose(adaptive_multipliers(table_2 * scale, None), expected, rtol=1e-4)


def test_adaptive_needs_no_embedding() -> None:
    """The types that there are have the multipliers of Table 2 at Table 2's norms."""
    found = adaptive_multipliers(jnp.array([0.0, 0.82, 0.65, 0.0]), None)
    np.testing.assert_allclose(found, [1.0, 1.45, 1.24, 1.0], atol=5e-3)
    aardvark(1.0, scaling="adaptive").init({"attn": jnp.ones((2, 2))})


def test_normalized_has_a_mean_of_one_over_all_parameters() -> None:
    """The scientific control: the same ratios, and the mean rate of AdamW."""
    g = trees.model()
    fixed = one_step(aardvark(1.0, **LITERAL), g)
    normalized = one_step(aardvark(1.0, scaling="normalized", **LITERAL), g)
    sizes = jax.tree.map(lambda u: float(jnp.sum(jnp.abs(u))), normalized)
    total = sum(x.size for x in jax.tree.leaves(g))
    assert sum(jax.tree.leaves(sizes)) / total == pytest.approx(1.0, rel=1e-4)
    ratios = jax.tree.map(lambda a, b: float((a / b).ravel()[0]), normalized, fixed)
    np.testing.assert_allclose(jax.tree.leaves(ratios), jax.tree.leaves(ratios)[0], rtol=1e-5)


def test_clip_modes_limit_all_each_layer_or_each_entry() -> None:
    mlp = jnp.array([[[3.0, 4.0]], [[0.3, 0.4]]])
    g = {"layers": {"mlp": mlp}, "head": jnp.array([[0.0, 12.0]])}

    def clipped(**arguments: Any) -> Any:
        """The gradients that the moments saw: ten times the first moment."""
        tx = scale_by_aardvark(**arguments)
        return jax.tree.map(lambda m: m / 0.1, tx.update(g, tx.init(g))[1].mu)

    # Norms: 13.0096 in all; 5 and 0.5 in the two stacked layers; 12.
    all_of_it = math.sqrt(25 + 0.25 + 144)
    for arguments, mlp, head in (
        ({}, np.array([[3, 4], [0.3, 0.4]]) / all_of_it, [[0, 12 / all_of_it]]),
        ({"clip_mode": "per_tensor"}, [[0.6, 0.8], [0.3, 0.4]], [[0, 1]]),
        ({"clip_mode": "elementwise"}, [[1, 1], [0.3, 0.4]], [[0, 1]]),
        ({"clip": None}, [[3, 4], [0.3, 0.4]], [[0, 12]]),
        ({"clip": 20.0}, [[3, 4], [0.3, 0.4]], [[0, 12]]),
    ):
        seen = clipped(**arguments)
        np.testing.assert_allclose(seen["layers"]["mlp"][:, 0], mlp, rtol=1e-6)
        np.testing.assert_allclose(seen["head"], head, rtol=1e-6)


def test_decay_goes_with_the_groups_rate_or_the_base_rate_or_not_at_all() -> None:
    params = {"lm_head": jnp.ones((2, 2)), "norm": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    for arguments, decay in (
        ({}, 0.018),
        ({"decay_rate": "base"}, 0.01),
        ({"weight_decay": 0.0}, 0),
    ):
        updates = one_step(aardvark(0.1, **arguments), zeros, params)
        np.testing.assert_allclose(updates["lm_head"], -decay, rtol=1e-6)
        np.testing.assert_allclose(updates["norm"], 0.0)


def test_stacked_norms_and_biases_do_not_decay_and_kernels_do() -> None:
    params = trees.model()
    zeros = jax.tree.map(jnp.zeros_like, params)
    moved = jax.tree.map(lambda u: bool(jnp.any(u != 0)), one_step(aardvark(0.1), zeros, params))
    assert moved == jax.tree.map(lambda kind: kind not in ("norm", "bias"), layer_types(params))


def test_an_unlabelled_parameter_is_refused_at_init() -> None:
    params = {"adapter": jnp.ones((2, 2)), "mlp": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match="adapter"):
        aardvark(0.1).init(params)
    aardvark(0.1, layers=Layers(unmatched="other")).init(params)
    aardvark(0.1, layers=Layers(rules=(("adapter", "mlp"),), unmatched="other")).init(params)


def test_rules_and_functions_label_in_place_of_the_default() -> None:
    g = {"adapter": jnp.ones((2, 2))}
    for layers in (
        Layers(rules=(("adapter", "head"),)),
        {"adapter": "head"},
        lambda tree: jax.tree.map(lambda _: "head", tree),
    ):
        updates = one_step(aardvark(1.0, layers=layers, **LITERAL), g)
        np.testing.assert_allclose(updates["adapter"], -1.8, rtol=1e-4)


def test_a_tied_head_warns_and_gets_the_embeddings_multiplier() -> None:
    tied = {"embed": jnp.ones((4, 2)), "attn": jnp.ones((2, 2))}
    with pytest.warns(UserWarning, match="No parameter is an output head"):
        aardvark(0.1).init(tied)
    with pytest.warns(UserWarning, match="No parameter is an output head"):
        aardvark(0.1, multipliers={"head": 2.0}).init({"mlp": jnp.ones((2, 2))})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aardvark(0.1).init({**tied, "lm_head": jnp.ones((2, 4))})
        aardvark(0.1).init(jnp.ones(3))  # an array without a name is no language model
        headless = aardvark(1.0, multipliers={"embedding": 1.8}, **LITERAL)
        updates = one_step(headless, tied)
    np.testing.assert_allclose(updates["embed"], -1.8, rtol=1e-4)


def test_stacked_layers_are_layers() -> None:
    stacked = trees.model()
    tx = aardvark(0.1, clip_mode="per_tensor", clip=0.5)
    expected = one_step(tx, trees.unstack(stacked))
    chex.assert_trees_all_close(one_step(tx, stacked), trees.restack(expected), rtol=1e-6)


def test_a_learning_rate_of_zero_moves_nothing() -> None:
    params = {"mlp": jnp.ones((2, 2))}
    np.testing.assert_array_equal(one_step(aardvark(0.0), params)["mlp"], 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"decay": 1.0}, "decay"), ({"scale_bounds": (1.0, 0.5)}, "scale_bounds must be in order")],
)
def test_bad_adaptive_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Adaptive(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"learning_rate": -1e-3},
            "learning_rate must be a finite number, 0 or above, but it is -0.001",
        ),
        ({"b1": 1.0}, "b1"),
        ({"b2": 2.0}, "b2"),
        ({"eps": -1.0}, "eps"),
        ({"clip": 0.0}, "clip"),
        ({"clip_mode": "norm"}, "clip_mode must be one of 'global_norm', 'per_tensor'"),
        ({"scaling": "learned"}, "scaling must be one of"),
        ({"scaling": "adaptive", "multipliers": {"mlp": 2.0}}, "leave multipliers at None"),
        ({"scaling": Adaptive(), "multipliers": {"mlp": 2.0}}, "leave multipliers at None"),
        ({"nonfinite": "warn"}, "nonfinite must be one of 'skip', 'nan_to_num', None"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"decay_rate": "layer"}, "decay_rate must be one of"),
        ({"multipliers": {"mlps": 1.0}}, "unknown layer type 'mlps'.*did you mean 'mlp'"),
        ({"multipliers": {"mlp": -1.0}}, "scale of 'mlp'"),
        ({"layers": (("x", "mlp"),)}, r"write layers=Layers\(rules="),
        ({"mu_dtype": "int32"}, "mu_dtype"),
    ],
)
def test_bad_arguments_are_refused_with_one_sentence(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        aardvark(**{"learning_rate": 0.1, **arguments})
