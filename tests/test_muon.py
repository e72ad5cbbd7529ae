"""Muon finds the matrices of a language model, in whatever shape their kernels have."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from optax import contrib

from optax_strat import DEFAULT_MATRICES, muon_dimensions, scale_by_muon, stratify
from tests import trees
from tests.checkpoints import HEAD, HIDDEN, WIDTH
from tests.libraries import LIBRARIES

HIDDEN_TYPES = ("attention", "mlp")
OTHERS = ("embedding", "head", "norm")


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


def gemma(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def test_heads_may_come_first_and_rules_may_be_added() -> None:
    tree = {
        "layer_0": {
            "attn": {
                "q_einsum": gemma(4, 8, 2),
                "kv_einsum": gemma(2, 1, 8, 2),
                "attn_vec_einsum": gemma(4, 2, 8),
            },
            "mlp": {"gating_einsum": gemma(2, 8, 32)},
        }
    }
    sides = muon_dimensions(tree)["layer_0"]
    assert sides["attn"]["q_einsum"] == ((1,), (0, 2))
    assert sides["attn"]["kv_einsum"] == ((2,), (1, 3))
    assert sides["attn"]["attn_vec_einsum"] == ((0, 1), (2,))
    assert sides["mlp"]["gating_einsum"] == ((1,), (2,))
    odd = {"attn": {"everything": gemma(3, 8, 4, 2)}}
    with pytest.raises(ValueError, match="Which dimensions of 'attn/everything', of the shape"):
        muon_dimensions(odd)
    rules = (("everything", "bioo"), *DEFAULT_MATRICES)
    assert muon_dimensions(odd, matrices=rules)["attn"]["everything"] == ((1,), (2, 3))


@pytest.mark.parametrize("rule", [("out", "iox"), ("out", "ii"), ("(", "io"), ("out",), 3])
def test_bad_rules_for_matrices_are_refused(rule: Any) -> None:
    with pytest.raises(ValueError, match="A rule for matrices must be a pair"):
        muon_dimensions(trees.model(), matrices=(rule,))


def flat_matrices(tree: Any) -> Any:
    """The unstacked model with attention kernels as plain matrices."""

    def flat(path: Any, x: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path)
        if x.ndim < 3:
            return x
        return x.reshape(-1, x.shape[-1]) if "out" in name else x.reshape(x.shape[0], -1)

    return jax.tree_util.tree_map_with_path(flat, trees.unstack(tree))


def test_a_stack_of_heads_is_optaxs_muon_on_a_list_of_plain_matrices() -> None:
    """Three steps of the hybrid on stacked [L, D, N, H] kernels, against optax.contrib.muon."""
    params, gs = trees.model(), trees.gradients(trees.model(), steps=3)
    rate = optax.linear_schedule(0.1, 0.01, 3)
    ours = stratify(
        {HIDDEN_TYPES: scale_by_muon(ns_steps=2), OTHERS: optax.scale_by_adam(nesterov=True)},
        learning_rate=rate,
    )
    reference = contrib.muon(
        rate,
        muon_weight_dimension_numbers=lambda tree: jax.tree_util.tree_map_with_path(
            lambda path, x: contrib.MuonDimensionNumbers() if is_hidden(path) else None, tree
        ),
        ns_steps=2,
        consistent_rms=0.2,
    )

    def is_hidden(path: Any) -> bool:
        return "'layers'" in jax.tree_util.keystr(path) and "scale" not in jax.tree_util.keystr(
            path
        )

    @jax.jit
    def train(params: Any, gs: Any) -> Any:
        def run(tx: Any, params: Any, dress: Any) -> Any:
            def step(carry: Any, g: Any) -> Any:
                updates, state = tx.update(dress(g), carry[1], carry[0])
                return (optax.apply_updates(carry[0], updates), state), None

            return jax.lax.scan(step, (dress(params), tx.init(dress(params))), gs)[0][0]

        listed = run(ours, params, trees.unstack)
        stacked = run(ours, params, lambda tree: tree)
        return (
            flat_matrices(stacked),
            flat_matrices(trees.restack(listed)),
            run(reference, params, flat_matrices),
        )

    stacked, listed, expected = train(params, gs)
    chex.assert_trees_all_close(stacked, expected, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(listed, expected, rtol=1e-4, atol=1e-5)


def test_updates_have_the_size_that_rms_says() -> None:
    tree = {"mlp": jnp.asarray(np.random.default_rng(0).normal(size=(3, 64, 16)), jnp.float32)}
    tx = scale_by_muon(rms=0.4, ns_steps=10)
    updates, _ = tx.update(tree, tx.init(tree))
    rms = float(jnp.sqrt(jnp.mean(updates["mlp"] ** 2)))
    assert rms == pytest.approx(0.4, rel=0.15)  # five coefficients leave 0.7 to 1.2


@pytest.mark.parametrize("rms", [0.2, None])
def test_updates_have_the_dtype_of_the_gradients_whatever_that_of_the_momentum(rms: Any) -> None:
    tree = {"mlp": jnp.ones((3, 2), jnp.bfloat16)}
    tx = scale_by_muon(rms=rms, mu_dtype="float32")
    updates, _ = jax.eval_shape(lambda g: tx.update(g, tx.init(g)), tree)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, tree)


@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
def test_muon_works_on_meshes_and_keeps_the_shardings(kind: AxisType) -> None:
    params = {
        "layers": {"attn": {"query": trees.model()["layers"]["attention"]["query"]["kernel"]}}
    }
    tx = scale_by_muon()
    expected, _ = tx.update(params, tx.init(params))
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        place = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
        sharded = jax.tree.map(lambda x: jax.device_put(x, place), params)
        updates, state = jax.jit(lambda g: tx.update(g, tx.init(g)))(sharded)
    chex.assert_trees_all_close(jax.device_get(updates), expected, rtol=1e-5, atol=1e-6)
    for x in jax.tree.leaves((updates, state.mu)):
        assert x.sharding.is_equivalent_to(place, x.ndim)


def test_vectors_are_refused_with_the_rule_that_sends_them_elsewhere() -> None:
    params = {"attn": {"sinks": jnp.ones(4), "query": jnp.ones((4, 4))}}
    make = functools.partial(stratify, {HIDDEN_TYPES: scale_by_muon(), "norm": optax.sgd(1.0)})
    with pytest.raises(ValueError, match="Muon is for matrices, and these") as error:
        make().init(params)
    assert "  attn/sinks\n" in str(error.value)
    assert "layer_types=((r'sinks', 'norm'), *DEFAULT_RULES)" in str(error.value)
    make((("sinks", "norm"), ("attn", "attention"))).init(params)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": 1.0}, "beta must lie in"),
        ({"ns_steps": 0}, "ns_steps must be"),
        ({"rms": 0.0}, "rms must be"),
        ({"eps": -1.0}, "eps must be"),
        ({"mu_dtype": "int8"}, "mu_dtype must be a floating-point dtype"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scale_by_muon(**arguments)
