"""Which dimensions of other people's kernels form matrices."""

from typing import Any

import jax
import numpy as np
import pytest
from optax import contrib

from optax_strat import DEFAULT_MATRICES, DEFAULT_RULES, Layers, muon_dimensions, scale_by_muon
from tests.support import trees
from tests.support.checkpoints import HEAD, HIDDEN, WIDTH
from tests.support.libraries import LIBRARIES

D, F, N, K, H, E, L = 8, 32, 2, 1, 4, 5, 3


def sides(tree: Any, **arguments: Any) -> dict[str, Any]:
    """The two sides of each parameter's matrices, by its path."""
    flat, _ = jax.tree_util.tree_flatten_with_path(
        muon_dimensions(tree, **arguments),
        is_leaf=lambda x: x is None or isinstance(x, contrib.MuonDimensionNumbers),
    )
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): found and tuple(found)
        for path, found in flat
    }


def matrices(name: str) -> dict[str, tuple[int, int, int]]:
    """How many matrices there are in each hidden kernel of a library, from how many to how many."""
    tree = LIBRARIES[name]()
    flat, _ = jax.tree_util.tree_flatten_with_path(
        muon_dimensions(tree), is_leaf=lambda x: isinstance(x, contrib.MuonDimensionNumbers)
    )
    shapes = dict(jax.tree_util.tree_leaves_with_path(tree))
    found = {}
    for path, sides in flat:
        shape = np.array(shapes[path].shape)
        inputs, outputs = (int(np.prod(shape[list(side)])) for side in sides)
        text = jax.tree_util.keystr(path, simple=True, separator="/")
        found[text.replace("/value/value", "/value").lower()] = (
            int(shape.prod()) // (inputs * outputs),
            inputs,
            outputs,
        )
    return found


@pytest.mark.parametrize(
    ("library", "expected"),
    [
        (
            "flax_linen_scanned",
            {
                "attention/query": (3, WIDTH, WIDTH),
                "attention/out": (3, WIDTH, WIDTH),
                "mlp_up": (3, WIDTH, HIDDEN),
                "mlp_down": (3, HIDDEN, WIDTH),
            },
        ),
        ("equinox", {"mlp/layers/0": (1, WIDTH, HIDDEN), "mlp/layers/1": (1, HIDDEN, WIDTH)}),
        ("equinox_stacked", {"mlp/layers/0": (3, WIDTH, HIDDEN)}),
        ("haiku_layer_stack", {"linear_0": (3, WIDTH, HIDDEN), "query": (3, WIDTH, WIDTH)}),
        (
            "maxtext",
            {
                "key": (3, WIDTH, HEAD),
                "self_attention/out": (3, WIDTH, WIDTH),
                "mlp/wo": (3, HIDDEN, WIDTH),
            },
        ),
        ("maxtext_moe", {"wi_0": (12, WIDTH, HIDDEN), "wo": (12, HIDDEN, WIDTH)}),
        ("nanodo", {"attn_out_proj": (1, WIDTH, WIDTH), "query": (1, WIDTH, WIDTH)}),
        ("big_vision", {"out": (1, WIDTH, WIDTH), "dense_0": (1, WIDTH, HIDDEN)}),
        ("hf_qwen3_moe", {"up_proj": (1, WIDTH, HIDDEN), "k_proj": (1, WIDTH, HEAD)}),
    ],
)
def test_the_hidden_matrices_of_libraries_are_found(
    library: str, expected: dict[str, tuple[int, int, int]]
) -> None:
    found = matrices(library)
    for part, sizes in expected.items():
        hits = [
            value for path, value in found.items() if f"{part}/" in f"{path}/".replace(".", "/")
        ]
        assert hits
        assert set(hits) == {sizes}
    assert not any(
        word in path for path in found for word in ("embed", "lm_head", "logits", "bias", "norm")
    )


def shape(*dims: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(dims, np.float32)


@pytest.mark.parametrize(
    ("path", "dims", "expected"),
    [
        # Gemma: heads first.
        ("layer_0/attn/q_einsum/w", (N, D, H), ((1,), (0, 2))),
        ("layer_0/attn/k_einsum/w", (K, D, H), ((1,), (0, 2))),
        ("layer_0/attn/kv_einsum/w", (2, K, D, H), ((2,), (1, 3))),
        ("layer_0/attn/attn_vec_einsum/w", (N, H, D), ((0, 1), (2,))),
        ("layer_0/mlp/gating_einsum", (2, D, F), ((1,), (2,))),
        ("layer_0/moe/gating_einsum/w", (E, 2, D, F), ((2,), (3,))),
        ("layer_0/moe/linear/w", (E, F, D), ((1,), (2,))),
        # Levanter: PyTorch's order, more dimensions; Haliax's arrays are the first of their module.
        ("transformer/layer_0/self_attn/q_proj/weight/0", (K, 2, H, D), ((3,), (0, 1, 2))),
        ("transformer/layer_0/self_attn/k_proj/weight/0", (K, H, D), ((2,), (0, 1))),
        ("transformer/layer_0/self_attn/o_proj/weight/0", (D, N, H), ((1, 2), (0,))),
        ("transformer/layer_0/attn/c_attn/weight/0", (D, 3, N, H), ((0,), (2, 3))),
        ("transformer/layer_0/attn/c_proj/weight/0", (N, H, D), ((0, 1), (2,))),
        ("transformer/layer_0/mlp/up_proj/weight/0", (F, D), ((1,), (0,))),
        # PyTorch and Equinox, whose experts are one module.
        ("model/layers/0/mlp/down_proj/weight", (D, F), ((1,), (0,))),
        ("layer_0/moe/experts/layers/0/weight", (E, F, D), ((2,), (1,))),
        # Flax.
        ("encoderblock_0/MultiHeadDotProductAttention_0/out/kernel", (N, H, D), ((0, 1), (2,))),
        ("layer_0/attention/output/weights", (N, H, D), ((0, 1), (2,))),
        ("layer_0/mlp/experts/gate_proj/kernel", (E, D, F), ((1,), (2,))),
        # Tables, scales and convolutions are no matrices.
        ("encoder/SelfAttention/relative_attention_bias/weight", (32, N), None),
        ("blocks/0/attn/relative_position_bias_table", (169, N), None),
        ("blocks/0/attn/logit_scale", (N, 1, 1), None),
        ("layer_0/attention/conv1d/kernel", (4, 1, 24), None),
        ("layer_0/mlp/conv/kernel", (3, 3, D, D), None),
        # What stands around attention says nothing of it.
        ("conv_encoder/attention/query/kernel", (D, N, H), ((0,), (1, 2))),
        ("out/attention/query/kernel", (D, N, H), ((0,), (1, 2))),
        ("head_moe/attention/out/kernel", (N, H, D), ((0, 1), (2,))),
    ],
)
def test_kernels_of_other_libraries_are_read_rightly(
    path: str, dims: tuple[int, ...], expected: Any
) -> None:
    assert sides({path: shape(*dims)}) == {path: expected}


@pytest.mark.parametrize(
    ("path", "dims"),
    [
        # A stack that was not found, with its layers where MaxText and T5X have them.
        ("tower/mlp/wi_0/kernel", (D, L, F)),
        ("tower/self_attention/query/kernel", (D, L, N, H)),
        ("decoder/decoder/mlp/shared_experts/wo/kernel", (F, L, D)),
        # Nobody says which dimensions of these are the inputs.
        ("attn/mix/kernel", (D, N, H)),
        ("attn/everything", (3, D, N, H)),
    ],
)
def test_what_names_do_not_tell_is_asked(path: str, dims: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"Which dimensions of '{path}', of the shape") as error:
        muon_dimensions({path: shape(*dims)})
    assert f"'{'b' * (len(dims) - 2)}io'), *DEFAULT_MATRICES), or name the con" in str(error.value)
    letters = "b" * (len(dims) - 2) + "io"
    mine = ((path.rpartition("/")[2], letters), *DEFAULT_MATRICES)
    last = len(dims) - 1
    assert sides({path: shape(*dims)}, matrices=mine) == {path: ((last - 1,), (last,))}


def test_a_stack_that_was_not_found_can_be_named() -> None:
    tree = {"tower": {"mlp": {"wi_0": {"kernel": shape(D, L, F)}}}}
    named = sides(tree, layers=Layers(stacked={"tower": 1}))
    assert named == {"tower/mlp/wi_0/kernel": ((0,), (2,))}


def test_a_users_rule_decides_over_all_that_names_say() -> None:
    tree = {
        "attn": {"query": {"kernel": shape(D, N, H)}, "out": {"kernel": shape(N, H, D)}},
        "mlp": {"conv": {"kernel": shape(3, 3, D, F)}},
    }
    by_head = (("query", "ibo"), ("out", "bio"), ("conv", "iiio"), *DEFAULT_MATRICES)
    assert sides(tree, matrices=by_head) == {
        "attn/query/kernel": ((0,), (2,)),
        "attn/out/kernel": ((1,), (2,)),
        "mlp/conv/kernel": ((0, 1, 2), (3,)),
    }


def test_a_rule_with_letters_for_other_dimensions_is_refused() -> None:
    rules = (("query", "bibo"), *DEFAULT_MATRICES)
    stacked = {"layers": {"attn": {"query": shape(L, D, N, H)}, "norm": {"scale": shape(L, D)}}}
    message = "gives 'layers/attn/query' the letters 'bibo', but without that of its layers it has"
    with pytest.raises(ValueError, match=message):
        muon_dimensions(stacked, matrices=rules)


def test_a_rule_may_match_more_than_matrices() -> None:
    rules = (("kernel", "io"), *DEFAULT_MATRICES)
    tree = {"attn": {"query": {"kernel": shape(D, D)}, "conv": {"kernel": shape(4, 1, D)}}}
    assert sides(tree, matrices=rules) == {
        "attn/query/kernel": ((0,), (1,)),
        "attn/conv/kernel": None,
    }


@pytest.mark.parametrize("mine", ["router", "vision", "frozen"])
def test_types_of_a_users_own_change_nothing_about_how_kernels_are_read(mine: str) -> None:
    tree = {
        "vision": {
            "attn": {"out": {"kernel": shape(N, H, D), "bias": shape(1, D)}},
            "norm": {"scale": shape(D)},
            "moe": {"wi_0": shape(E, D, F)},
            "patches": {"embedding": shape(16, D)},
        }
    }
    layers = Layers(rules=(("vision", mine), *DEFAULT_RULES))
    assert set(jax.tree.leaves(layers.labels(tree))) == {mine}
    assert sides(tree, layers=layers) == sides(tree)
    assert sides(tree)["vision/attn/out/kernel"] == ((0, 1), (2,))


def test_a_label_of_everything_hidden_does_not_make_attention_an_mlp() -> None:
    tree = {"layers": trees.model()["layers"]}
    everything = Layers(rules=((".*", "mlp"),))
    names = ("layers/attention/query/kernel", "layers/attention/out/kernel")
    assert [sides(tree, layers=everything)[name] for name in names] == [
        ((1,), (2, 3)),
        ((1, 2), (3,)),
    ]


def test_a_layer_without_a_telling_name_is_hidden_if_its_type_or_a_rule_of_matrices_says_so() -> (
    None
):
    tree = {"mixer": {"in_proj": {"kernel": shape(D, F)}, "a_log": shape(D, 16)}}
    assert set(sides(tree, layers=Layers(unmatched="other")).values()) == {None}
    ours = Layers(rules=(("mixer", "attention"),))
    assert sides(tree, layers=ours) == {"mixer/in_proj/kernel": ((0,), (1,)), "mixer/a_log": None}
    named = Layers(rules=(("mixer", "mixer"),))
    assert set(sides(tree, layers=named).values()) == {None}
    rules = (("in_proj", "io"), *DEFAULT_MATRICES)
    assert sides(tree, layers=named, matrices=rules) == sides(tree, layers=ours)


def test_a_type_of_ours_by_which_the_user_takes_a_kernel_out_is_heard() -> None:
    tree = {"attn": {"query": {"kernel": shape(D, N, H)}}}
    for label in ("embedding", "other", "head"):
        assert sides(tree, layers=Layers(rules=(("attn", label),))) == {"attn/query/kernel": None}


def test_muon_refuses_convolutions() -> None:
    params = {"attention": {"conv1d": {"kernel": shape(4, 1, 24)}, "query": shape(D, D)}}
    with pytest.raises(ValueError, match=r"these parameters are none:\n  attention/conv1d/kernel"):
        scale_by_muon().init(params)


@pytest.mark.parametrize("rule", [("out", "iox"), ("out", "ii"), ("(", "io"), ("out",), 3])
def test_bad_rules_for_matrices_are_refused(rule: Any) -> None:
    with pytest.raises(ValueError, match="A rule for matrices must be a pair"):
        muon_dimensions(trees.model(), matrices=(rule,))
