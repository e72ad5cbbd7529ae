"""Layer types of other people's parameters, and the rules that find them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from optax_strat import DEFAULT_RULES, LayerType, _paths, describe, layer_types
from tests import trees

X = np.zeros((2, 2), np.float32)


def labels_by_path(tree: Any, **arguments: Any) -> dict[str, str]:
    """Layer types by path, whatever the tree is made of."""
    labels = layer_types(tree, **arguments)
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
        "encoder/layer/0/output/LayerNorm/bias": "norm",
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
        "model.layers.0.mlp.experts.gate_up_proj_bias": "norm",
        "layers/moe/router/kernel": "mlp",
    },
    "LoRA": {
        "layers/0/self_attn/q_proj/lora_A/weight": "attention",
        "layers/mlp/up/lora/a": "mlp",
        "layers/mlp/up/lora/b": "mlp",
        "layers/mlp/up/b": "norm",
        "lm_head/lora_B/weight": "head",
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
            ("query/bias", "norm"),
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
    assert set(jax.tree.leaves(layer_types(state))) == {"attention", "norm"}
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
        "LayerNorm_0/bias": "norm",
        "LayerNorm_0/scale": "norm",
        "embed/embedding": "embedding",
        "lm_head/bias": "norm",
        "lm_head/kernel": "head",
        **{
            f"self_attention/{name}/{leaf}": kind
            for name in ("key", "out", "query", "value")
            for leaf, kind in (("bias", "norm"), ("kernel", "attention"))
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
    assert "rules=(*DEFAULT_RULES, (r'down', 'mlp'))" in message
    assert labels_by_path(params, unmatched="other")["frontend/conv"] == "other"


def test_one_line_adds_a_rule_and_the_first_match_wins() -> None:
    params = nested("adapter/attention/kernel", "mlp/gate/kernel", "mlp/up/kernel")
    rules = (("adapter", "mlp"), ("mlp/gate", "other"), *DEFAULT_RULES)
    assert labels_by_path(params, rules=rules) == {
        "adapter/attention/kernel": "mlp",
        "mlp/gate/kernel": "other",
        "mlp/up/kernel": "mlp",
    }


def test_rules_match_whole_segments_in_any_case() -> None:
    params = nested("NumHeads/mlp", "Headless/mlp", "MyHead/mlp")
    assert set(labels_by_path(params, rules=(("head", "head"), *DEFAULT_RULES)).values()) == {"mlp"}
    assert (
        labels_by_path(params, rules=(("myhead", "head"), *DEFAULT_RULES))["MyHead/mlp"] == "head"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"rules": (("mlp", "dense"),)},
            "unknown layer type 'dense'; allowed are embedding, atten",
        ),
        ({"rules": (("(mlp", "mlp"),)}, "regular expression"),
        ({"rules": ("mlp",)}, "must be a pair"),
        ({"unmatched": "skip"}, "unmatched must be one of 'error', 'other'"),
    ],
)
def test_bad_rules_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer_types(nested("mlp/kernel"), **arguments)


def test_a_layer_type_is_its_name() -> None:
    assert LayerType.mlp == "mlp"
    assert list(LayerType) == ["embedding", "attention", "mlp", "head", "norm", "other"]


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
    assert describe(nested("adapter/kernel"), unmatched="other").rows[0].type == "other"
    assert describe(X).rows[0].path == "(unnamed)"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda tree: jax.tree.map(lambda _: "dense", tree), "unknown layer type 'dense'"),
        (lambda tree: {}, "each of 1 parameters"),
    ],
)
def test_a_function_that_labels_badly_is_refused(function: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        describe(nested("mlp/kernel"), layer_types=function)
