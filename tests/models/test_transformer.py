"""What the transformer computes, whatever way its layers are run."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import PRESETS, apply, features, init, logical_axes, unembed

TINY = dataclasses.replace(
    PRESETS["nano"],
    vocab_size=40,
    context=16,
    layers=2,
    d_model=32,
    heads=4,
    kv_heads=2,
    d_ff=48,
    dtype="float32",
)
TOKENS = jax.random.randint(jax.random.key(1), (2, 16), 0, 40)
SEGMENTS = jnp.array([[1] * 5 + [2] * 11, [1] * 16])
# Of the last token of the first row: a change here changes every model ever trained.
GOLDEN_LOGITS = jnp.array([-0.0015115, 0.1061557, 0.1139727, 0.0364560])

run = jax.jit(apply, static_argnums=0)


@pytest.fixture(scope="module")
def params():
    return init(TINY, jax.random.key(0))


def _loss(config, params):
    return jnp.mean(jax.nn.log_softmax(apply(config, params, TOKENS, SEGMENTS))[..., 0])


@functools.cache
def _compiled_step(**change):
    config = dataclasses.replace(TINY, **change)
    params = jax.eval_shape(lambda: init(TINY, jax.random.key(0)))
    return jax.jit(jax.value_and_grad(lambda p: _loss(config, p))).lower(params).compile()


def test_the_tree_of_parameters_is_a_plain_dict_of_stacked_float32(params):
    L, V, D, F, N, K, H = 2, 40, 32, 48, 4, 2, 8
    shapes = {
        "embed": {"embedding": (V, D)},
        "layers": {
            "attention_norm": {"scale": (L, D)},
            "attention": {
                "query": {"kernel": (L, D, N, H)},
                "key": {"kernel": (L, D, K, H)},
                "value": {"kernel": (L, D, K, H)},
                "out": {"kernel": (L, N, H, D)},
            },
            "mlp_norm": {"scale": (L, D)},
            "mlp": {
                "gate": {"kernel": (L, D, F)},
                "up": {"kernel": (L, D, F)},
                "down": {"kernel": (L, F, D)},
            },
        },
        "final_norm": {"scale": (D,)},
        "head": {"kernel": (D, V)},
    }
    assert jax.tree.map(jnp.shape, params) == shapes
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    assert type(params["layers"]["mlp"]) is dict


def test_logical_axes_name_every_dimension_of_every_parameter(params):
    axes = logical_axes(TINY)
    assert axes["layers"]["attention"]["out"]["kernel"] == ("layers", "heads", "head_dim", "embed")
    assert axes["layers"]["attention"]["key"]["kernel"][2] == "kv_heads"
    assert axes["layers"]["mlp_norm"]["scale"] == ("layers", None)
    assert axes["embed"]["embedding"] == ("vocab", "embed")
    ranks = jax.tree.map(len, axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    assert ranks == jax.tree.map(jnp.ndim, params)


@pytest.mark.parametrize(
    ("attention", "segments"),
    [("head_major", None), ("head_major", SEGMENTS[:1]), ("xla", SEGMENTS[:1])],
)
def test_no_gradient_flows_from_later_tokens_or_other_documents(params, attention, segments):
    # Every token occurs once, so its row of the embedding has its gradient and no other.
    config = dataclasses.replace(TINY, attention=attention)
    tokens = jnp.arange(16)[None]

    def logits_by_position(embedding):
        changed = params | {"embed": {"embedding": embedding}}
        return jnp.sum(jnp.sin(apply(config, changed, tokens, segments))[0], axis=-1)

    jacobian_TVD = jax.jacrev(logits_by_position)(params["embed"]["embedding"])
    flows = np.asarray(jnp.any(jacobian_TVD[:, :16] != 0, axis=-1))
    allowed = np.tril(np.ones((16, 16), bool))
    if segments is not None:
        allowed &= np.equal.outer(np.asarray(segments[0]), np.asarray(segments[0]))
    np.testing.assert_array_equal(flows, allowed)


def test_a_packed_sequence_equals_its_documents_apart(params):
    packed = run(TINY, params, TOKENS, SEGMENTS)
    chex.assert_trees_all_close(packed[:1, :5], run(TINY, params, TOKENS[:1, :5]), atol=1e-5)
    chex.assert_trees_all_close(packed[:1, 5:], run(TINY, params, TOKENS[:1, 5:]), atol=1e-5)
    chex.assert_trees_all_close(packed[1], run(TINY, params, TOKENS)[1], atol=1e-5)


def test_rolled_and_unrolled_layers_agree(params):
    rolled = _compiled_step(scan_unroll=1, remat="none")(params)
    chex.assert_trees_all_close(_compiled_step()(params), rolled, atol=1e-6)


def test_layers_run_in_the_order_of_their_slices(params):
    def one_layer_model(layer):
        return params | {"layers": jax.tree.map(lambda leaf: leaf[layer : layer + 1], layers)}

    def silenced(leaf, layer):
        return leaf.at[layer].set(0)

    # A layer that writes nothing into the residual stream leaves the model without that layer.
    layers = params["layers"]
    single = dataclasses.replace(TINY, layers=1)
    for silent, heard in ((0, 1), (1, 0)):
        quiet = {
            "attention": layers["attention"]
            | {"out": {"kernel": silenced(layers["attention"]["out"]["kernel"], silent)}},
            "mlp": layers["mlp"]
            | {"down": {"kernel": silenced(layers["mlp"]["down"]["kernel"], silent)}},
        }
        chex.assert_trees_all_close(
            run(TINY, params | {"layers": layers | quiet}, TOKENS),
            run(single, one_layer_model(heard), TOKENS),
            atol=1e-6,
        )

    swapped = params | {"layers": jax.tree.map(lambda leaf: leaf[::-1], layers)}
    assert not jnp.allclose(run(TINY, swapped, TOKENS), run(TINY, params, TOKENS), atol=1e-4)


def test_projections_computed_as_one_give_the_loss_and_gradients_of_each_alone(params):
    chex.assert_trees_all_close(
        _compiled_step(attention="xla")(params),
        _compiled_step(attention="head_major")(params),
        atol=1e-6,
    )


def test_off_the_cpu_a_layer_reads_its_activations_in_four_products_and_not_seven():
    def products(attention):
        config = dataclasses.replace(TINY, attention=attention)
        abstract = jax.eval_shape(lambda: init(TINY, jax.random.key(0)))
        jaxpr = str(jax.make_jaxpr(functools.partial(features, config))(abstract, TOKENS))
        shapes = re.findall(r":f32\[(\S+)\] = dot_general", jaxpr)
        return sum(shape.startswith("2,16,") for shape in shapes)

    assert products("head_major") == 7
    assert products("xla") == 4


def test_rematerialization_trades_memory_for_work_and_changes_nothing_else(params):
    steps = [_compiled_step(scan_unroll=1, remat=remat) for remat in ("none", "dots", "full")]
    none, dots, full = (step(params) for step in steps)
    chex.assert_trees_all_close(dots, none, atol=1e-6)
    chex.assert_trees_all_close(full, none, atol=1e-6)
    work = [step.cost_analysis()["flops"] for step in steps]
    memory = [step.memory_analysis().temp_size_in_bytes for step in steps]
    assert work == sorted(set(work))
    assert memory == sorted(set(memory), reverse=True)


def test_the_compiler_cannot_undo_rematerialization_when_layers_are_unrolled(params):
    kept, again = _compiled_step(), _compiled_step(remat="full")
    chex.assert_trees_all_close(again(params), kept(params), atol=1e-6)
    assert again.cost_analysis()["flops"] > 1.2 * kept.cost_analysis()["flops"]


def test_grouped_queries_are_full_heads_with_shared_keys_and_values(params):
    attention = dict(params["layers"]["attention"])
    for name in ("key", "value"):
        kernel_LDKH = attention[name]["kernel"]
        attention[name] = {"kernel": jnp.repeat(kernel_LDKH, 2, axis=2)}
    expanded = params | {"layers": params["layers"] | {"attention": attention}}
    full = dataclasses.replace(TINY, kv_heads=4)
    chex.assert_trees_all_close(run(full, expanded, TOKENS), run(TINY, params, TOKENS), atol=1e-6)


def test_a_tied_head_is_the_embedding_read_backwards(params):
    tied = dataclasses.replace(TINY, tied_head=True)
    shared = {name: leaf for name, leaf in params.items() if name != "head"}
    chex.assert_trees_all_equal_shapes(shared, init(tied, jax.random.key(0)))
    untied = params | {"head": {"kernel": params["embed"]["embedding"].T}}
    chex.assert_trees_all_close(run(tied, shared, TOKENS), run(TINY, untied, TOKENS), atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_inside_the_model(params, dtype):
    half = dataclasses.replace(TINY, dtype=dtype)
    chex.assert_trees_all_equal(init(half, jax.random.key(0)), params)
    assert jax.eval_shape(lambda p: features(half, p, TOKENS), params).dtype == dtype
    logits, exact = run(half, params, TOKENS), apply(TINY, params, TOKENS)
    assert logits.dtype == jnp.float32
    assert 0 < jnp.max(jnp.abs(logits - exact)) < 0.02 * jnp.max(jnp.abs(exact))
    gradients = jax.eval_shape(jax.grad(lambda p: _loss(half, p)), params)
    chex.assert_trees_all_equal_dtypes(gradients, params)


def test_the_gradient_of_a_frequent_token_is_summed_in_float32(params):
    # In bfloat16 a sum of equal terms stops growing at 256 of them. Layers of zeros leave every
    # token to itself, so that all gradients are equal.
    config = dataclasses.replace(TINY, context=512, layers=1, dtype="bfloat16")
    small = params | {"layers": jax.tree.map(lambda leaf: leaf[:1] * 0, params["layers"])}
    small["embed"] = {"embedding": jnp.tile(params["embed"]["embedding"][:1], (40, 1))}
    tokens = jnp.zeros((1, 512), jnp.int32).at[0, -1].set(1)

    gradients = jax.jit(jax.grad(lambda p: jnp.sum(features(config, p, tokens)[..., 0])))(small)
    frequent, rare = gradients["embed"]["embedding"][:2]
    chex.assert_trees_all_close(frequent, 511 * rare, rtol=1e-3)


def test_apply_is_the_head_on_the_features_of_any_part_of_the_sequence(params):
    x = jax.jit(features, static_argnums=0)(TINY, params, TOKENS, SEGMENTS)
    parts = [unembed(TINY, params, x[:, :7]), unembed(TINY, params, x[:, 7:])]
    chex.assert_trees_all_close(
        jnp.concatenate(parts, axis=1), run(TINY, params, TOKENS, SEGMENTS), atol=1e-6
    )


def test_init_is_the_same_eagerly_compiled_and_in_shape_alone(params):
    key = jax.random.key(0)
    chex.assert_trees_all_close(jax.jit(lambda k: init(TINY, k))(key), params, atol=1e-7)
    abstract = jax.eval_shape(lambda k: init(TINY, k), key)
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, params)


def test_init_draws_every_layer_and_every_kernel_anew(params):
    kernels = [
        leaf[layer].ravel()[:8]
        for leaf in jax.tree.leaves({k: params["layers"][k] for k in ("attention", "mlp")})
        for layer in range(TINY.layers)
    ]
    kernels += [params["embed"]["embedding"].ravel()[:8], params["head"]["kernel"].ravel()[:8]]
    shapes_of_noise = {
        tuple(np.asarray(kernel / jnp.abs(kernel[0])).round(3).tolist()) for kernel in kernels
    }
    assert len(shapes_of_noise) == len(kernels)
    other = init(TINY, jax.random.key(1))
    assert not jnp.allclose(other["head"]["kernel"], params["head"]["kernel"])


def test_init_has_the_scales_of_gpt2(params):
    def std(*leaves):
        return float(jnp.std(jnp.concatenate([leaf.ravel() for leaf in leaves])))

    layers, residual = params["layers"], 0.02 / (2 * TINY.layers) ** 0.5
    attention, mlp = layers["attention"], layers["mlp"]
    assert std(params["embed"]["embedding"]) == pytest.approx(0.02, rel=0.05)
    assert std(params["head"]["kernel"]) == pytest.approx(0.02, rel=0.05)
    for module, names in ((attention, ("query", "key", "value")), (mlp, ("gate", "up"))):
        assert std(*(module[name]["kernel"] for name in names)) == pytest.approx(0.02, rel=0.05)
    assert std(attention["out"]["kernel"]) == pytest.approx(residual, rel=0.05)
    assert std(mlp["down"]["kernel"]) == pytest.approx(residual, rel=0.05)
    assert jnp.all(params["final_norm"]["scale"] == 1)


def test_golden_logits(params):
    # Norms start at one; here each has a scale of its own, so that none can stand for another.
    layers = params["layers"] | {
        "attention_norm": {"scale": 1.5 * params["layers"]["attention_norm"]["scale"]},
        "mlp_norm": {"scale": 0.5 * params["layers"]["mlp_norm"]["scale"]},
    }
    logits = run(TINY, params | {"layers": layers}, TOKENS, SEGMENTS)
    chex.assert_trees_all_close(logits[0, -1, :4], GOLDEN_LOGITS, atol=2e-5)


@pytest.mark.parametrize(
    ("tokens", "segments", "sentence"),
    [
        (jnp.zeros((2, 17), jnp.int32), None, r"tokens are 17 long, but the model's context is 16"),
        (jnp.zeros((2, 3)), None, r"tokens have dtype float32, but must be integers"),
        (jnp.zeros(3, jnp.int32), None, r"tokens have shape \(3,\), but must be \[batch, tokens\]"),
        (TOKENS, SEGMENTS[:, :4], r"segment ids have shape \(2, 4\), .* shape \(2, 16\)"),
        (TOKENS, SEGMENTS * 1.0, r"segment ids have dtype float32, but must be integers"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_in_one_sentence(params, tokens, segments, sentence):
    with pytest.raises(ValueError, match=sentence):
        apply(TINY, params, tokens, segments)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"layers": 3}, r"for layers/\S+ this one asks for shape \(3, .*\), but the tree has \(2,"),
        (
            {"tied_head": True},
            r"for head/kernel .* asks for shape none, but the tree has \(32, 40\)",
        ),
    ],
)
def test_parameters_of_another_config_are_refused(params, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        apply(dataclasses.replace(TINY, **change), params, TOKENS)


def test_a_token_outside_the_vocabulary_cannot_go_unnoticed(params):
    assert jnp.all(jnp.isnan(run(TINY, params, jnp.array([[40]]))))
