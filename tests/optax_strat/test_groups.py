"""Groups of stratify: keys that are types or patterns, rates, decays, and what is frozen."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

from optax_strat import DEFAULT_RULES, Group, Layers, decays, scale_by_muon, stratify
from tests.support import trees

ADAM = optax.scale_by_adam()


def rates(tx: optax.GradientTransformation, params: Any) -> Any:
    """What each parameter's updates are multiplied by."""
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = tx.update(ones, tx.init(params), params)
    return jax.tree.map(lambda u: round(float(jnp.ravel(u)[0]), 4), updates)


def model() -> dict[str, Any]:
    block = {"attn": jnp.ones((2, 2)), "mlp": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    return {"embed": jnp.ones((3, 2)), "h": [block, block], "lm_head": jnp.ones((2, 3))}


def test_the_first_key_that_matches_takes_a_parameter() -> None:
    tx = stratify({"h/1/mlp": 2.0, "mlp": 3.0, ("h/.*", "lm_head"): 4.0, ".*": 5.0})
    assert rates(tx, model()) == {
        "embed": 5.0,
        "h": [
            {"attn": 4.0, "mlp": {"kernel": 3.0, "bias": 4.0}},  # the bias is of the type bias
            {"attn": 4.0, "mlp": {"kernel": 2.0, "bias": 2.0}},
        ],
        "lm_head": 4.0,
    }


def test_a_name_that_is_a_type_is_never_a_pattern() -> None:
    """The pattern 'head' would match `head/mlp` too."""
    params = {"head": {"mlp": jnp.ones((2, 2)), "kernel": jnp.ones((2, 2))}}
    tx = stratify({"head": 2.0, "mlp": 3.0})
    assert rates(tx, params) == {"head": {"mlp": 3.0, "kernel": 2.0}}


def test_types_of_ones_own_are_keys_whether_by_rules_a_tree_or_a_function() -> None:
    params = {"gate": jnp.ones((2, 2)), "embed": jnp.ones((2, 2))}
    labels = {"gate": "router", "embed": "table"}
    rules = Layers(rules=(("gate", "router"), ("embed", "table")))
    for layers in (rules, labels, lambda _: labels):
        tx = stratify({"table": 2.0, "router": 3.0}, layers=layers)
        assert rates(tx, params) == {"gate": 3.0, "embed": 2.0}


def test_patterns_need_no_rule_for_the_names_that_they_match() -> None:
    params = {"conv1": jnp.ones((2, 2)), "fc": jnp.ones((2, 2))}
    assert rates(stratify({"conv1": 2.0, ".*": 3.0}), params) == {"conv1": 2.0, "fc": 3.0}
    with pytest.raises(ValueError, match="No rule gives a layer type") as error:
        stratify({"conv1": 2.0, "other": 3.0}).init(params)
    assert "conv1" not in str(error.value).splitlines()[1]
    tx = stratify({"conv1": 2.0, "other": 3.0}, Layers(unmatched="other"))
    assert rates(tx, params) == {"conv1": 2.0, "fc": 3.0}


def test_a_bare_array_and_lists_are_taken_by_other_and_by_the_last_key() -> None:
    assert rates(stratify({"other": 2.0}), jnp.ones(2)) == 2.0
    assert rates(stratify({"mlp": 1.0, ".*": 2.0}), [jnp.ones(2), (jnp.ones(3),)]) == [2.0, (2.0,)]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"(": 1.0}, "neither a layer type nor a regular expression"),
        ({"*": 1.0}, "nothing to repeat at position 0; all parameters are '.\\*'\\.$"),
        ({"mlp(": 1.0}, r"unterminated subpattern at position 3\.$"),
        ({"a)(b": 1.0}, r"unbalanced parenthesis at position 1\.$"),
        ({"(?i)a": 1.0}, r"global flags not at the start of the expression\.$"),
        ({".*": 1.0, "mlp": 1.0}, "'.\\*' of stratify takes all parameters"),
        ({"mlp": 1.0, ("attention", "mlp"): 1.0}, "'mlp' stands in two groups"),
        ({("h/1", "h/1"): 1.0}, "'h/1' stands in two groups"),
        ({("a", "b"): 1.0, "a+b": 1.0}, r"would be called 'a\+b'"),
        ({3: 1.0}, "must be a layer type, a pattern, or a tuple"),
        ({(): 1.0}, "must be a layer type, a pattern, or a tuple"),
        ({"mlp": -1.0}, "rate of a group of stratify must be"),
        ({"mlp": "adam"}, r"'mlp' .* a transformation .*, a number .* or a Group, but .*'adam'\.$"),
        ({"mlp": optax.adam}, "a transformation .*, a number .* or a Group, but it is <function"),
    ],
)
def test_bad_groups_are_refused_at_construction(groups: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stratify(groups)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"transform": 0.1}, "a number is its rate="),
        ({"rate": -1.0}, "The rate of a Group must be"),
        ({"rate": optax.constant_schedule(1.0)}, "The rate of a Group must be a number"),
        ({"weight_decay": -0.1}, "The weight_decay of a Group must be"),
        ({"frozen": True, "rate": 0.1}, "A frozen Group takes nothing else"),
        ({"frozen": True, "transform": optax.identity()}, "A frozen Group takes nothing else"),
    ],
)
def test_a_bad_group_is_refused_with_one_sentence(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Group(**fields)


def test_a_pattern_that_takes_nothing_is_a_slip() -> None:
    with pytest.raises(ValueError, match=r"'mpl' .* matches no parameter; did you mean 'mlp'"):
        stratify({"mpl": 1.0, ".*": 1.0}).init(model())
    with pytest.raises(ValueError, match=r"take all that it matches, such as 'h/.*'"):
        stratify({"h/.*": 1.0, "h/1/attn": 2.0, ".*": 1.0}).init(model())


def test_what_takes_nothing_for_a_reason_is_no_slip() -> None:
    """A type may have no parameters, `.*` none left, and a mask may hide those of a pattern."""
    stratify({"norm": 1.0, "h": 1.0, ("embed", "lm_head"): 1.0, ".*": 1.0}).init(model())
    tx = stratify({"lm_head": 1.0, "h/0": 2.0, "h": 3.0, ".*": 4.0})
    tx.init({})
    hidden = {"embed": True, "h": True, "lm_head": False}
    masked = optax.masked(tx, hidden)
    assert rates(masked, model())["h"][1]["attn"] == 3.0


def test_a_rate_multiplies_updates_and_decay_alike() -> None:
    params = trees.model()
    grouped = stratify({"head": Group(ADAM, rate=4.0), ".*": ADAM}, learning_rate=0.1)
    decaying = stratify(
        {"head": Group(ADAM, rate=4.0), ".*": ADAM}, learning_rate=0.1, weight_decay=0.5
    )

    def first_updates(tx: optax.GradientTransformation) -> Any:
        return jax.jit(lambda p: tx.update(trees.model(seed=1), tx.init(p), p)[0])(params)

    plain, decayed = first_updates(grouped), first_updates(decaying)
    head, kernel = plain["head"]["kernel"], params["head"]["kernel"]
    adam = first_updates(optax.adam(0.1))["head"]["kernel"]
    np.testing.assert_allclose(head, 4 * adam, rtol=1e-5)
    np.testing.assert_allclose(
        decayed["head"]["kernel"], head - 0.1 * 4 * 0.5 * kernel, rtol=1e-5, atol=1e-6
    )
    up, kernel = (tree["layers"]["mlp"]["up"]["kernel"] for tree in (plain, params))
    np.testing.assert_allclose(
        decayed["layers"]["mlp"]["up"]["kernel"], up - 0.05 * kernel, rtol=1e-5, atol=1e-6
    )


def test_a_decay_of_its_own_replaces_the_shared_one_where_the_mask_lets_it() -> None:
    params = trees.model()
    tx = stratify(
        {
            "embedding": Group(weight_decay=0.0),
            ("mlp", "norm"): Group(weight_decay=optax.constant_schedule(0.3)),
            "head": Group(weight_decay=0.2),
            ".*": 1.0,
        },
        weight_decay=0.1,
    )
    zeros = jax.tree.map(jnp.zeros_like, params)
    decayed, _ = jax.jit(lambda p: tx.update(zeros, tx.init(p), p))(params)
    rates = {"embed": 0.0, "head": 0.2, "attention": 0.1, "mlp": 0.3, "attention_norm": 0.0}
    rates["final_norm"] = 0.0
    wide = {**params, **params["layers"]}
    got = {**decayed, **decayed["layers"]}
    for name, rate in rates.items():
        expected = jax.tree.map(lambda p, rate=rate: rate * p, wide[name])
        chex.assert_trees_all_close(got[name], expected, rtol=1e-6)
    assert not decays(params)["layers"]["attention_norm"]["scale"]


def test_a_mask_of_ones_own_still_applies_to_groups() -> None:
    params = {"mlp": jnp.ones((2, 2)), "head": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
    groups = {"mlp": Group(weight_decay=0.5), "head/bias": Group(weight_decay=0.7), "head": 1.0}
    for mask in ({"mlp": False, "head": True}, lambda _: {"mlp": False, "head": True}):
        tx = stratify(groups, weight_decay=0.1, mask=mask)
        zeros = jax.tree.map(jnp.zeros_like, params)
        decayed, _ = tx.update(zeros, tx.init(params), params)
        values = jax.tree.map(lambda u: round(float(u.ravel()[0]), 3), decayed)
        assert values == {"mlp": 0.0, "head": {"kernel": 0.1, "bias": 0.7}}


def frozen_embedding() -> optax.GradientTransformationExtraArgs:
    return stratify(
        {"embedding": Group(frozen=True), ".*": ADAM},
        learning_rate=0.1,
        clip=1.0,
        weight_decay=0.1,
    )


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, 1e6])
def test_frozen_parameters_stay_and_their_gradients_count_for_nothing(bad: float) -> None:
    params, tx = trees.model(), frozen_embedding()
    g = trees.model(seed=1)
    broken = {**g, "embed": jax.tree.map(lambda x: jnp.full_like(x, bad), g["embed"])}
    zeroed = {**g, "embed": jax.tree.map(jnp.zeros_like, g["embed"])}
    updates = jax.jit(lambda g: tx.update(g, tx.init(params), params)[0])
    chex.assert_trees_all_equal(updates(broken), updates(zeroed))
    np.testing.assert_array_equal(updates(broken)["embed"]["embedding"], 0.0)
    assert np.isfinite(updates(broken)["head"]["kernel"]).all()


def test_frozen_parameters_have_no_state() -> None:
    params = trees.model()
    state = frozen_embedding().init(params)
    learning = sum(x.size for x in jax.tree.leaves({**params, "embed": ()}))
    small = [x for x in jax.tree.leaves(state) if x.ndim == 0]
    assert sum(x.size for x in jax.tree.leaves(state)) == 2 * learning + len(small)


def groups(head_rate: Any, head_decay: Any) -> optax.GradientTransformationExtraArgs:
    return stratify(
        {
            "embedding": Group(frozen=True),
            "head": Group(ADAM, rate=head_rate, weight_decay=head_decay),
            ".*": ADAM,
        },
        learning_rate=0.1,
        clip=1.0,
        weight_decay=0.1,
        cautious=True,
    )


def test_rates_and_decays_of_groups_can_be_injected_and_changed() -> None:
    params = trees.model()
    injected = optax.inject_hyperparams(groups)(4.0, 0.3)

    @jax.jit
    def both(params: Any, rate: Any) -> Any:
        state = injected.init(params)
        state.hyperparams["head_rate"] = rate
        updates, state = injected.update(params, state, params)
        plain = groups(2.0, 0.3)
        return (updates, state.inner_state), plain.update(params, plain.init(params), params)

    chex.assert_trees_all_close(*both(params, 2.0), rtol=1e-5)


def test_groups_keep_state_and_shardings_on_explicit_meshes_and_donate() -> None:
    tx = groups(4.0, 0.3)
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Explicit,))
    params = {"embed": jnp.ones((16, 2)), "head": jnp.ones((2, 8)), "mlp": jnp.ones((8, 4))}
    specs = {"embed": PartitionSpec("fsdp"), "head": PartitionSpec(None, "fsdp")}
    specs["mlp"] = PartitionSpec("fsdp")

    def step(params: Any, state: Any) -> Any:
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    expected = step(params, tx.init(params))
    with jax.set_mesh(mesh):
        placed = jax.tree.map(jax.device_put, params, specs)
        state = tx.init(placed)
        types = jax.tree.map(lambda x: str(jax.typeof(x)), (placed, state))
        after = jax.jit(step, donate_argnums=(0, 1))(placed, state)
        assert jax.tree.map(lambda x: str(jax.typeof(x)), after) == types
    chex.assert_trees_all_close(jax.device_get(after), jax.device_get(expected), rtol=1e-5)


def test_map_params_finds_the_moments_of_all_groups() -> None:
    tx = groups(4.0, 0.3)
    state = tx.init(trees.model())
    marked = optax.tree.map_params(
        tx, lambda _: "copy", state, transform_non_params=lambda _: "other"
    )
    learning = len(jax.tree.leaves(trees.model())) - 1
    assert jax.tree.leaves(marked).count("copy") == 2 * learning


def test_rules_in_front_give_types_that_groups_name() -> None:
    layers = Layers(rules=(("router", "router"), *DEFAULT_RULES))
    params = {"mlp": {"router": jnp.ones((2, 2)), "up": jnp.ones((2, 2))}}
    tx = stratify({"router": 0.1, "mlp": 1.0}, layers)
    assert rates(tx, params) == {"mlp": {"router": 0.1, "up": 1.0}}


def test_a_vector_among_muons_matrices_gets_a_group_of_its_own_as_the_error_says() -> None:
    params = {"mlp": {"kernel": jnp.eye(2), "count": jnp.ones(2)}}
    with pytest.raises(ValueError, match="these parameters are none") as error:
        stratify({"mlp": scale_by_muon()}).init(params)
    layers = Layers(rules=((r"count", "vector"), *DEFAULT_RULES))
    assert "layers=Layers(rules=((r'count', 'vector'), *DEFAULT_RULES))" in str(error.value)
    assert "stratify a key 'vector'" in str(error.value)
    assert (
        rates(stratify({"mlp": scale_by_muon(), "vector": 0.5}, layers), params)["mlp"]["count"]
        == 0.5
    )


def test_a_group_may_accumulate_on_its_own() -> None:
    """And `optax.MultiSteps` is taken as it is, without its `.gradient_transformation()`."""
    params = {"mlp": jnp.ones((2, 2)), "head": jnp.ones((2, 2))}
    tx = stratify({"mlp": optax.MultiSteps(ADAM, 2), ".*": ADAM}, learning_rate=0.1)
    state = tx.init(params)
    first, state = tx.update(params, state, params)
    second, _ = tx.update(params, state, params)
    np.testing.assert_allclose([u["mlp"][0, 0] for u in (first, second)], [0, -0.1], rtol=1e-4)
    np.testing.assert_allclose([u["head"][0, 0] for u in (first, second)], [-0.1] * 2, rtol=1e-4)
