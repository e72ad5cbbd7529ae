"""Layer types of other people's parameters, and the rules that find them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, traverse_util
from hypothesis import given
from hypothesis import strategies as st

from optax_strat import (
    DEFAULT_RULES,
    Layers,
    LayerType,
    StratoptReadings,
    _paths,
    aardvark,
    clip_by_layer_norm,
    decays,
    describe,
    layer_types,
    norms_by_layer_type,
    read_statistics,
    record_statistics,
    scale_by_layer_type,
    strata_names,
    stratopt,
)
from tests.support import trees

X = np.zeros((2, 2), np.float32)


def labels_by_path(tree: Any, layers: Any = Layers()) -> dict[str, str]:  # noqa: B008
    """Layer types by path, whatever the tree is made of."""
    labels = layer_types(tree, layers)
    flat, _ = jax.tree_util.tree_flatten_with_path(labels)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): kind for path, kind in flat}


def nested(*paths: str) -> dict[str, Any]:
    """A tree of dicts with a matrix at each path."""
    tree: dict[str, Any] = {}
    for path in paths:
        node = tree
        *parents, last = path.split("/")
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = X
    return tree


GOLDEN: dict[str, dict[str, str]] = {
    "this project's models": {
        "embed/embedding": "embedding",
        "layers/attention_norm/scale": "norm",
        "layers/mlp_norm/scale": "norm",
        "layers/attention/query/kernel": "attention",
        "layers/attention/out/kernel": "attention",
        "layers/mlp/gate/kernel": "mlp",
        "layers/mlp/down/kernel": "mlp",
        "final_norm/scale": "norm",
        "head/kernel": "head",
    },
    "Hugging Face BERT": {
        "embeddings/word_embeddings/embedding": "embedding",
        "embeddings/LayerNorm/scale": "norm",
        "encoder/layer/0/attention/self/query/kernel": "attention",
        "encoder/layer/0/attention/output/dense/kernel": "attention",
        "encoder/layer/0/intermediate/dense/kernel": "mlp",
        "encoder/layer/0/output/dense/kernel": "mlp",
        "encoder/layer/0/output/LayerNorm/bias": "bias",
    },
    "Meta's Llama": {
        "tok_embeddings/weight": "embedding",
        "layers/0/attention/wq/weight": "attention",
        "layers/0/feed_forward/w1/weight": "mlp",
        "layers/0/attention_norm/weight": "norm",
        "layers/0/ffn_norm/weight": "norm",
        "norm/weight": "norm",
        "output/weight": "head",
    },
    "Gemma": {
        "transformer/embedder/input_embedding": "embedding",
        "transformer/layer_0/attn/q_einsum/w": "attention",
        "transformer/layer_0/attn/_query_norm/scale": "norm",
        "transformer/layer_0/pre_attention_norm/scale": "norm",
        "transformer/layer_0/mlp/gating_einsum": "mlp",
        "transformer/final_norm/scale": "norm",
    },
    "mixtures of experts": {
        "model.layers.0.block_sparse_moe.gate.weight": "mlp",
        "model.layers.0.block_sparse_moe.experts.7.w1.weight": "mlp",
        "model.layers.0.mlp.shared_expert.up_proj.weight": "mlp",
        "model.layers.0.mlp.experts.gate_up_proj_bias": "bias",
        "layers/moe/router/kernel": "mlp",
    },
    "LoRA": {
        "layers/0/self_attn/q_proj/lora_A/weight": "attention",
        "layers/mlp/up/lora/a": "mlp",
        "layers/mlp/up/lora/b": "mlp",
        "layers/mlp/up/b": "bias",
        "lm_head/lora_B/weight": "head",
    },
    "modules named like layers": {
        "embedding_model/layers/0/mlp/up": "mlp",
        "ln_model/mlp/kernel": "mlp",
        "expert_model/attention/query/kernel": "attention",
        "attention_model/lm_head/kernel": "head",
        "mlp_mixer/embed/kernel": "embedding",
        "lm_head/embedding": "embedding",  # what NNX stores of `self.lm_head = self.wte`
        "head/norm/scale": "norm",
    },
    "heads and outputs inside attention": {
        "attention/output_proj/weight": "attention",
        "attention/heads_3/query": "attention",
        "encoder/layer_0/self_attention/output/dense/kernel": "attention",
        "attn/relative_embedding/embedding": "attention",
        "self_attn/rotary_emb/inv_freq": "attention",
        "multi_head_attention/head/kernel": "attention",
    },
    "positions": {
        "transformer/wpe": "embedding",
        "pos_embedding": "embedding",
        "cls_token": "embedding",
        "relpos_bias/rel_embedding": "embedding",
        "block.0.layer.0.SelfAttention.relative_attention_bias.weight": "attention",
    },
}


@pytest.mark.parametrize("library", GOLDEN)
def test_golden_labels(library: str) -> None:
    golden = GOLDEN[library]
    assert labels_by_path(nested(*golden)) == golden


class Attention(nnx.Module):
    """Submodules may be called ``key`` and ``value``."""

    def __init__(self, rngs: nnx.Rngs):
        self.query = nnx.Linear(2, 2, rngs=rngs)
        self.key = nnx.Linear(2, 2, use_bias=False, rngs=rngs)
        self.value = nnx.Linear(2, 2, use_bias=False, rngs=rngs)


class Model(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(4, 2, rngs=rngs)
        self.layers = nnx.List([Attention(rngs) for _ in range(2)])
        self.norm = nnx.RMSNorm(2, rngs=rngs)
        self.lm_head = nnx.Linear(2, 4, use_bias=False, rngs=rngs)


NNX_GOLDEN = {
    "embed/embedding": "embedding",
    **{
        f"layers/{i}/{name}": kind
        for i in range(2)
        for name, kind in (
            ("key/kernel", "attention"),
            ("query/bias", "bias"),
            ("query/kernel", "attention"),
            ("value/kernel", "attention"),
        )
    },
    "lm_head/kernel": "head",
    "norm/scale": "norm",
}


def test_nnx_states_modules_and_pure_dicts_have_the_same_labels() -> None:
    model = Model(nnx.Rngs(0))
    state = nnx.state(model, nnx.Param)
    for tree in (state, model, nnx.to_pure_dict(state)):
        found = {path.removesuffix("/value"): kind for path, kind in labels_by_path(tree).items()}
        assert found == NNX_GOLDEN


def test_only_the_last_value_is_the_arrays_own() -> None:
    """A module called ``value`` is attention in a state, where its array's path ends on ``value``
    twice, and outside of it."""
    state = nnx.state(Model(nnx.Rngs(0)), nnx.Param)["layers"][0]
    bare = {"value": {"kernel": X}}
    assert labels_by_path(bare) == {"value/kernel": "attention"}
    assert set(jax.tree.leaves(layer_types(state))) == {"attention", "bias"}
    labels = jax.tree.leaves(layer_types({"value": state["value"]}))
    assert labels == ["attention"]


def test_linen_variables_have_the_same_labels_boxed_and_not() -> None:
    class Boxed(nn.Module):
        @nn.compact
        def __call__(self, tokens: jax.Array) -> jax.Array:
            init = nn.with_partitioning(nn.initializers.ones, ("vocab", "embed"))
            x = nn.Embed(4, 2, embedding_init=init, name="embed")(tokens)
            x = nn.MultiHeadDotProductAttention(1, name="self_attention")(x, x)
            x = nn.LayerNorm()(x)
            return nn.Dense(4, kernel_init=init, name="lm_head")(x)

    variables = jax.eval_shape(Boxed().init, jax.random.key(0), jnp.zeros((1, 3), jnp.int32))
    boxed = jax.tree.leaves(layer_types(variables))
    assert boxed == jax.tree.leaves(layer_types(nn.unbox(variables)))
    assert labels_by_path(nn.unbox(variables)["params"]) == {
        "LayerNorm_0/bias": "bias",
        "LayerNorm_0/scale": "norm",
        "embed/embedding": "embedding",
        "lm_head/bias": "bias",
        "lm_head/kernel": "head",
        **{
            f"self_attention/{name}/{leaf}": kind
            for name in ("key", "out", "query", "value")
            for leaf, kind in (("bias", "bias"), ("kernel", "attention"))
        },
    }


def test_stacked_layers_have_the_labels_of_unstacked_ones() -> None:
    stacked = trees.model()
    unstacked = layer_types(trees.unstack(stacked))
    assert unstacked["layers"] == [layer_types(stacked)["layers"]] * trees.LAYERS


@pytest.mark.parametrize("tree", [X, [X, X], (X, [X]), {0: X, 1: [X]}, {"0": X}, []])
def test_parameters_without_names_are_other(tree: Any) -> None:
    assert set(jax.tree.leaves(layer_types(tree))) <= {"other"}


def test_a_named_parameter_without_a_rule_is_an_error_that_lists_the_paths() -> None:
    params = nested("mlp/kernel", "adapter/down/kernel", "frontend/conv")
    with pytest.raises(ValueError, match="No rule gives a layer type") as error:
        layer_types(params)
    message = str(error.value)
    assert "adapter/down/kernel" in message
    assert "frontend/conv" in message
    assert "mlp/kernel" not in message
    assert labels_by_path(params, Layers(unmatched="other"))["frontend/conv"] == "other"


@pytest.mark.parametrize(
    "params",
    [
        nested("Conv_0/kernel", "Conv_0/bias", "Conv_1/kernel", "Dense_0/kernel", "Dense_1/kernel"),
        nested("conv1/kernel", "conv2/kernel", "linear/kernel"),
        nested("features.0.weight", "fc.weight"),
        {"stem": X, "trunk": [X, X]},
    ],
)
def test_the_error_gives_a_line_that_works_and_gives_each_module_a_type(params: Any) -> None:
    with pytest.raises(ValueError, match="No rule gives a layer type") as error:
        layer_types(params)
    line = str(error.value).split("layers=")[1].split("\n")[0]
    layers = eval(line, {"DEFAULT_RULES": DEFAULT_RULES, "Layers": Layers})
    labels = {kind for kind in labels_by_path(params, layers).values() if kind != "bias"}
    assert len(labels) > 1
    assert not labels & {*LayerType}
    aardvark(1e-3, layers=layers).init(params)


def test_rules_in_front_overrule_and_rules_behind_add() -> None:
    params = nested("adapter/attention/kernel", "mlp/gate/kernel", "mlp/up/kernel", "stem/kernel")
    rules = (("adapter", "lora"), ("mlp/gate", "other"), *DEFAULT_RULES, ("stem|mlp", "stem"))
    assert labels_by_path(params, Layers(rules=rules)) == {
        "adapter/attention/kernel": "lora",
        "mlp/gate/kernel": "other",
        "mlp/up/kernel": "mlp",
        "stem/kernel": "stem",
    }


def test_of_matching_rules_the_innermost_decides_and_then_the_first() -> None:
    rules = (("a", "outer"), ("a/b", "first"), ("b", "second"), ("c$", "last"))
    params = nested("a/x", "a/b/x", "b/a/x", "a/b/c", "c/b/x")
    assert labels_by_path(params, Layers(rules=rules)) == {
        "a/x": "outer",
        "a/b/x": "first",
        "b/a/x": "outer",
        "a/b/c": "last",
        "c/b/x": "second",
    }


def test_rules_match_whole_segments_in_any_case() -> None:
    params = nested("NumHeads/mlp", "Headless/mlp", "MyHead/mlp")
    assert set(
        labels_by_path(params, Layers(rules=(("head", "head"), *DEFAULT_RULES))).values()
    ) == {"mlp"}
    assert (
        labels_by_path(params, Layers(rules=(("myhead", "head"), *DEFAULT_RULES)))["MyHead/mlp"]
        == "head"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rules": (("mlp", 3), ("a", "b"))}, "layer type of a rule must be a name"),
        ({"rules": (("(mlp", "mlp"),)}, r"regular expression.*\(mlp.*unterminated subpattern"),
        ({"rules": (("a", "b"), "mlp")}, "must be a pair"),
        ({"rules": {"mlp": 3}}, "that of mlp in layers is 3"),
        ({"unmatched": "skip"}, "unmatched must be one of 'error', 'other'"),
        ({"stacked": "layers"}, r"must be a tuple of names, such as \('layers',\)"),
        ({"stacked": {"layers": -1}}, "axis -1 for 'layers'"),
    ],
)
def test_bad_layers_are_refused_where_they_are_written(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Layers(**arguments)


def test_rules_without_their_layers_are_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"write layers=Layers\(rules=\.\.\.\)"):
        layer_types(nested("mlp"), (("mlp", "mlp"),))


def test_a_layer_type_is_its_name() -> None:
    assert LayerType.mlp == "mlp"
    assert list(LayerType) == ["embedding", "attention", "mlp", "head", "norm", "bias", "other"]


def tied() -> nnx.Module:
    class Tied(nnx.Module):
        def __init__(self) -> None:
            self.wte = nnx.Embed(4, 2, rngs=nnx.Rngs(0))
            self.lm_head = self.wte

    return Tied()


def test_a_head_that_nnx_tied_to_the_embedding_is_an_embedding_and_aardvark_warns() -> None:
    params = nnx.state(tied(), nnx.Param)
    assert [*labels_by_path(params).values()] == ["embedding"]
    with pytest.warns(UserWarning, match="the head's multiplier applies to nothing"):
        aardvark(1e-3).init(params)


def test_keys_that_are_tuples_are_paths() -> None:
    """As `flax.traverse_util.flatten_dict` makes them."""
    params = trees.model()
    params["layers"]["attention"]["query"]["bias"] = jnp.ones((trees.LAYERS, 2, 4))
    flat = traverse_util.flatten_dict(params)
    assert layer_types(flat) == traverse_util.flatten_dict(layer_types(params))
    assert decays(flat) == traverse_util.flatten_dict(decays(params))
    assert not decays(flat)["layers", "attention", "query", "bias"]


LABELS = {"embed": "tokens", "layers": "trunk", "final_norm": {"scale": "trunk"}, "head": "tokens"}


def test_a_tree_of_labels_or_a_function_to_one_are_taken_as_by_multi_transform() -> None:
    params = trees.model()
    expected = {
        path: "tokens" if path.startswith(("embed", "head")) else "trunk"
        for path in labels_by_path(params)
    }
    for layers in (LABELS, lambda _: LABELS, Layers(rules=LABELS), Layers(rules=lambda _: LABELS)):
        assert labels_by_path(params, layers) == expected
    whole = jax.tree.map(lambda _: "all", params)
    assert {*labels_by_path(params, whole).values()} == {"all"}
    assert {*labels_by_path(params, "all").values()} == {"all"}


def test_a_tree_of_labels_fits_a_masked_tree_and_an_nnx_state_too() -> None:
    masked = jax.tree.map(lambda x: x, trees.model())
    masked["layers"] = jax.tree.map(lambda _: optax.MaskedNode(), masked["layers"])
    assert set(labels_by_path(masked, LABELS).values()) == {"tokens", "trunk"}
    state = nnx.state(Model(nnx.Rngs(0)), nnx.Param)
    labels = {"embed": "tokens", "layers": "trunk", "norm": "trunk", "lm_head": "tokens"}
    assert labels_by_path(state, labels)["embed/embedding/value"] == "tokens"


def test_labels_that_leave_a_parameter_out_are_refused_with_its_path() -> None:
    with pytest.raises(ValueError, match=r"none for these parameters:\n  final_norm/scale\n"):
        layer_types(trees.model(), {k: v for k, v in LABELS.items() if k != "final_norm"})


@pytest.mark.parametrize("layers", [Layers(), Layers(rules=LABELS)])
def test_a_misspelt_type_is_refused_with_the_one_that_was_meant(layers: Layers) -> None:
    known = layers.types()
    assert known is not None
    wrong = f"{known[0]}x"
    for call in (
        lambda: aardvark(1e-3, multipliers={wrong: 2.0}, layers=layers),
        lambda: scale_by_layer_type({wrong: 2.0}, layers),
        lambda: clip_by_layer_norm({wrong: 2.0}, layers=layers),
        lambda: describe(trees.model(), multipliers={wrong: 2.0}, layers=layers),
    ):
        with pytest.raises(
            ValueError, match=f"unknown layer type '{wrong}'.*did you mean '{known[0]}'"
        ):
            call()


def test_a_misspelt_type_beside_a_function_is_a_warning_at_init() -> None:
    tx = scale_by_layer_type({"tokns": 2.0}, lambda _: LABELS)
    with pytest.warns(UserWarning, match="'tokns'.*; did you mean 'tokens'"):
        tx.init(trees.model())


ROUTED = Layers(rules=(("router", "router"), ("lora_[ab]", "lora"), *DEFAULT_RULES))


def test_types_of_ones_own_work_wherever_a_type_does() -> None:
    params = {
        "embed": jnp.ones((8, 4)),
        "mlp": {
            "router": jnp.ones((4, 2)),
            "up": {"lora_a": jnp.ones((4, 2)), "w": jnp.ones((4, 8))},
        },
        "head": jnp.ones((4, 8)),
    }
    assert ROUTED.types() == (*LayerType, "router", "lora")
    rows = {
        row.path: row for row in describe(params, multipliers={"lora": 3.0}, layers=ROUTED).rows
    }
    assert (rows["mlp/router"].type, rows["mlp/router"].multiplier) == ("router", 1.0)
    assert (rows["mlp/up/lora_a"].type, rows["mlp/up/lora_a"].multiplier) == ("lora", 3.0)

    scale = scale_by_layer_type({"router": 5.0}, ROUTED)
    scaled, _ = scale.update(params, scale.init(params))
    assert float(scaled["mlp"]["router"][0, 0]) == 5.0
    clipped, _ = clip_by_layer_norm({"lora": 1.0}, layers=ROUTED).update(params, optax.EmptyState())
    norms = norms_by_layer_type(clipped, layers=ROUTED)
    assert [*norms] == ["embedding", "mlp", "head", "router", "lora"]
    assert float(norms["lora"]) == pytest.approx(1.0)

    tx = record_statistics(aardvark(0.1, multipliers={"router": 0.5}, layers=ROUTED), layers=ROUTED)
    _, state = tx.update(params, tx.init(params), params)
    statistics = read_statistics(state)
    assert float(statistics["alpha"]["router"]) == 0.5
    assert float(statistics["alpha"]["lora"]) == 1.0
    assert float(statistics["gradient"]["lora"]) == pytest.approx(8**0.5)

    tx = stratopt(
        0.1, layer_clip={"router": 0.1}, layers=ROUTED, readings=StratoptReadings(stratum="type")
    )
    state = tx.init(params)
    _, state = tx.update(params, state, params)
    names = strata_names(params, "type", layers=ROUTED)
    factors = dict(zip(names, state[0].clip_factor.tolist(), strict=True))
    assert factors["router"] == pytest.approx(0.1 / 8**0.5)
    assert factors["lora"] == 1.0


def test_a_linear_layer_inside_a_norm_is_no_norm() -> None:
    """The modulation of a diffusion transformer: a matrix that should decay."""
    linear = {"weight": np.zeros((12, 2)), "bias": np.zeros(12)}
    params = {"norm1": {"linear": linear, "norm": {"weight": np.zeros(2)}}}
    with pytest.raises(ValueError, match=r"No rule gives a layer type.*\n  norm1/linear/weight\n"):
        layer_types(params)
    assert decays(params)["norm1"] == {
        "linear": {"weight": True, "bias": False},
        "norm": {"weight": False},
    }


def test_norms_and_biases_never_decay_whatever_their_type_is_called() -> None:
    params = {
        "vision": {
            "attention": {"query": {"kernel": jnp.ones((4, 2, 2)), "bias": jnp.ones((2, 2))}}
        }
    }
    mine = Layers(rules=(("vision", "vision"), *DEFAULT_RULES))
    params["vision"]["attention"]["query_norm"] = {"scale": jnp.ones((2, 2))}
    assert {*labels_by_path(params, mine).values()} == {"vision"}
    assert not decays(params, mine)["vision"]["attention"]["query_norm"]["scale"]
    assert decays(params, mine)["vision"]["attention"]["query"] == {"kernel": True, "bias": False}


def test_describe_shows_what_the_optimizers_make_of_a_tree() -> None:
    shapes = jax.eval_shape(trees.model)
    table = describe(shapes, multipliers={"mlp": 2.0})
    rows = {row.path: row for row in table.rows}
    assert rows["layers/mlp/up/kernel"] == (
        "layers/mlp/up/kernel", (2, 8, 24), "mlp", 2, 2.0, True, pytest.approx(384 / 1304)
    )  # fmt: skip
    assert rows["layers/attention_norm/scale"][2:6] == ("norm", 2, 1.0, False)
    assert rows["head/kernel"].multiplier == 1.8
    assert sum(row.share for row in table.rows) == pytest.approx(1.0)
    assert table.parameters == sum(x.size for x in jax.tree.leaves(shapes))
    lines = str(table).splitlines()
    assert lines[-1] == f"{table.parameters:,} parameters in 8 arrays, 13 layers"
    assert len({len(line) for line in lines[2:-2]}) == 1


def test_numbered_layers_are_one_line_of_the_table_and_rows_of_their_own() -> None:
    layer = {"mlp": {"up": X, "down": X}, "norm": X[0]}
    odd = {"mlp": {"up": np.zeros((2, 3)), "down": X}, "norm": X[0]}
    table = describe({"layers": [layer, layer, odd, *[layer] * 9], "head": X})
    assert len(table.rows) == 37
    lines = [line.split() for line in str(table).splitlines()[2:-2]]
    assert [line[:4] for line in lines] == [
        ["head", "2×2", "head", "1"],
        ["layers/0..11/mlp/down", "2×2", "mlp", "12"],
        ["layers/0..1,3..11/mlp/up", "2×2", "mlp", "11"],
        ["layers/0..11/norm", "2", "norm", "12"],
        ["layers/2/mlp/up", "2×3", "mlp", "1"],
    ]
    assert sum(float(line[-1].rstrip("%")) for line in lines) == pytest.approx(100, abs=0.3)
    assert str(table).endswith("126 parameters in 37 arrays, 37 layers")


@given(
    st.lists(st.tuples(st.from_regex(r"[ab]?\d{0,2}(/\d{1,2})?", fullmatch=True), st.booleans()))
)
def test_joined_names_leave_no_parameter_out(rows: list[tuple[str, bool]]) -> None:
    names, kinds = [name for name, _ in rows], [kind for _, kind in rows]
    folded = _paths.fold(names, kinds)
    assert sorted(member for _, members in folded for member in members) == [*range(len(rows))]
    for name, members in folded:
        assert len({kinds[member] for member in members}) == 1
        assert len(members) > 1 or name == names[members[0]]


def test_layers_along_the_second_axis_are_found_but_plain_matrices_are_none() -> None:
    wide = {"up": np.zeros((2, 3, 8)), "down": np.zeros((8, 3, 2)), "norm": np.zeros((2, 3))}
    plain = {"up": np.zeros((2, 3)), "mlp": np.zeros((5, 3))}
    assert [row.layers for row in describe({"layers": {"mlp": wide}}).rows] == [3, 3, 3]
    assert [row.layers for row in describe({"layers": {"mlp": plain}}).rows] == [1, 1]


def test_describe_refuses_what_the_optimizers_refuse() -> None:
    with pytest.raises(ValueError, match="adapter"):
        describe(nested("adapter/kernel"))
    with pytest.raises(ValueError, match="unknown layer type 'dense'"):
        describe(nested("mlp/kernel"), multipliers={"dense": 1.0})
    other = describe(nested("adapter/kernel"), layers=Layers(unmatched="other"))
    assert other.rows[0].type == "other"
    assert describe(X).rows[0].path == "(unnamed)"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda tree: jax.tree.map(lambda _: 3, tree), "that of mlp/kernel in layers is 3"),
        (lambda tree: {}, "have none for these parameters:\n  mlp/kernel"),
    ],
)
def test_a_function_that_labels_badly_is_refused(function: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        describe(nested("mlp/kernel"), layers=function)
