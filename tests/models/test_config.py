"""Configs refuse sizes that do not fit; presets and formulas agree with the real tree."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params

from models import PRESETS, TransformerConfig, apply, flops_per_token, init, parameter_count

TINY = dataclasses.replace(PRESETS["nano"], d_model=32, d_ff=48, context=16, vocab_size=40)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"heads": 5}, r"d_model=32 is not divisible by heads=5; choose heads among 1, 2, 4, 8"),
        ({"kv_heads": 3}, r"heads=4 is not divisible by kv_heads=3; .* among 1, 2, 4\."),
        ({"kv_heads": 0}, r"heads=4 is not divisible by kv_heads=0"),
        ({"heads": 32}, r"odd head dimension 1, .* make d_model / heads even"),
        ({"layers": 0}, r"layers=0 must be at least 1"),
        ({"vocab_size": -1}, r"vocab_size=-1 must be at least 1"),
        ({"norm_eps": 0.0}, r"norm_eps=0.0 must be greater than 0"),
        ({"rope_theta": float("nan")}, r"rope_theta=nan must be greater than 0"),
        ({"scan_unroll": 3}, r"scan_unroll=3 must lie between 1 and layers=2"),
        ({"scan_unroll": 0}, r"scan_unroll=0 must lie between 1 and layers=2"),
        ({"dtype": "float8"}, r"dtype='float8' is not one of 'bfloat16', 'float16', 'float32'"),
        ({"remat": "some"}, r"remat='some' is not one of 'none', 'dots', 'full'"),
        ({"attention": "flash"}, r"attention='flash' is not one of 'auto', 'head_major'"),
        ({"attention": "cudnn", "dtype": "float32"}, r"attention='cudnn' .* choose another dtype"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_in_one_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(TINY, **change)


def test_defaults_follow_the_sizes_that_they_depend_on():
    wider = dataclasses.replace(TINY, heads=2, layers=5)
    assert (wider.key_value_heads, wider.head_dim, wider.unroll) == (2, 16, 5)


def test_equal_configs_are_one_dictionary_key():
    assert {TINY: 1}[dataclasses.replace(TINY)] == 1


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("tied_head", [False, True])
def test_parameter_count_is_that_of_the_real_tree(name, tied_head):
    config = dataclasses.replace(PRESETS[name], tied_head=tied_head)
    tree = jax.eval_shape(lambda: init(config, jax.random.key(0)))

    def size(subtree):
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(subtree))

    layers, count = tree["layers"], parameter_count(config)
    assert count.embedding == size(tree["embed"])
    assert count.attention == size(layers["attention"])
    assert count.mlp == size(layers["mlp"])
    assert count.norm == size([layers["attention_norm"], layers["mlp_norm"], tree["final_norm"]])
    assert count.head == size(tree.get("head", {}))
    assert count.total == size(tree)


def test_parameter_count_knows_that_grouped_queries_are_smaller():
    config = dataclasses.replace(TINY, kv_heads=1)
    tree = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    attention = tree["layers"]["attention"]
    assert parameter_count(config).attention == sum(a.size for a in jax.tree.leaves(attention))


@pytest.mark.parametrize(
    ("name", "millions"), [("nano", 0.13), ("micro", 0.92), ("mini", 7.0), ("small", 58.5)]
)
def test_presets_have_the_sizes_in_their_comments(name, millions):
    assert parameter_count(PRESETS[name]).total / 1e6 == pytest.approx(millions, rel=0.03)


def test_the_papers_134_million_parameters_can_be_read_in_two_ways():
    assert parameter_count(PRESETS["paper_deep"]).layer_matrices == 134_217_728 == 2**27
    assert parameter_count(PRESETS["paper_wide"]).total == 134_105_856


@pytest.mark.parametrize("change", [{}, {"tied_head": True}, {"kv_heads": 2}])
def test_flops_per_token_is_the_sum_over_all_matrix_products(change):
    # The XLA path computes every logit, so that each product can be read off the program; causal
    # attention needs half of them. Backward takes two products for every one of forward. Norm
    # scales are parameters of the formula but not matrix products.
    config = dataclasses.replace(TINY, attention="xla", **change)
    params = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    tokens = jax.ShapeDtypeStruct((3, config.context), jnp.int32)
    program = jax.make_jaxpr(lambda p, t: apply(config, p, t))(params, tokens)
    weights, attention = _product_flops(program.jaxpr)
    assert weights > 0
    assert attention > 0

    expected = 3 * (weights + attention / 2) / tokens.size
    formula = flops_per_token(config, config.context) - 6 * parameter_count(config).norm
    assert formula == expected


def _product_flops(jaxpr) -> tuple[int, int]:
    """FLOPs of all matrix products, apart: those with a weight, and those of attention."""
    weights = attention = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (left_contracted, _), (left_batch, _) = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            summed = math.prod(left[i] for i in left_contracted)
            flops = 2 * summed * math.prod(equation.outvars[0].aval.shape)
            # Only attention multiplies two activations, which share batch dimensions.
            attention += flops if left_batch else 0
            weights += 0 if left_batch else flops
        for inner in jaxprs_in_params(equation.params):
            turns = equation.params["length"] if equation.primitive.name == "scan" else 1
            inner_weights, inner_attention = _product_flops(inner)
            weights += turns * inner_weights
            attention += turns * inner_attention
    return weights, attention


def test_a_config_can_be_written_out_and_read_back():
    assert TransformerConfig(**dataclasses.asdict(TINY)) == TINY
