"""The model computes the same on a mesh of eight devices, with automatic and explicit axes."""

import contextlib
import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from models import PRESETS, apply, features, init, logical_axes

CONFIG = dataclasses.replace(
    PRESETS["nano"], vocab_size=64, d_model=32, heads=4, kv_heads=2, d_ff=64, dtype="float32"
)
EVERYTHING_ELSE = {"tied_head": True, "attention": "xla", "scan_unroll": 1, "remat": "full"}
BATCH = ("data", "fsdp")
RULES = {
    "batch": BATCH,
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
}
TOKENS = jax.random.randint(jax.random.key(1), (8, 33), 0, 64)
SEGMENTS = jnp.cumsum(jax.random.bernoulli(jax.random.key(2), 0.1, (8, 32)), axis=1)

both_kinds_of_axes = pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])


@pytest.fixture(scope="module")
def params():
    return init(CONFIG, jax.random.key(0))


@contextlib.contextmanager
def _mesh(axis_type, rules=RULES):
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(axis_type,) * 3)
    with jax.set_mesh(mesh), nnx.logical_axis_rules(tuple(rules.items())):
        yield mesh


def _shardings(config, mesh):
    return jax.tree.map(
        lambda names: NamedSharding(mesh, P(*(RULES.get(name) for name in names))),
        logical_axes(config),
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )


def _loss(config, params, tokens, segments):
    log_probs = jax.nn.log_softmax(apply(config, params, tokens[:, :-1], segments))
    targets = jax.nn.one_hot(tokens[:, 1:], config.vocab_size)
    if AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types:
        targets = jax.sharding.reshard(targets, jax.typeof(log_probs).sharding)
    return -jnp.sum(log_probs * targets) / targets.shape[0]


@pytest.mark.parametrize(
    ("axis_type", "change"),
    [(AxisType.Auto, {}), (AxisType.Auto, EVERYTHING_ELSE), (AxisType.Explicit, {})],
)
def test_loss_and_gradients_on_a_mesh_equal_those_on_one_device(params, axis_type, change):
    config = dataclasses.replace(CONFIG, **change)
    params = {name: params[name] for name in logical_axes(config)}
    step = jax.jit(jax.value_and_grad(functools.partial(_loss, config)))
    expected = jax.device_get(step(params, TOKENS, SEGMENTS))

    with _mesh(axis_type) as mesh:
        shardings = _shardings(config, mesh)
        inputs = jax.device_put((TOKENS, SEGMENTS), NamedSharding(mesh, P(BATCH)))
        loss, gradients = step(jax.device_put(params, shardings), *inputs)

    chex.assert_trees_all_close(jax.device_get((loss, gradients)), expected, atol=1e-5)
    if axis_type == AxisType.Explicit:
        assert jax.tree.map(lambda leaf: leaf.sharding, gradients) == shardings


@both_kinds_of_axes
def test_parameters_created_in_shards_are_the_same_parameters(params, axis_type):
    with _mesh(axis_type) as mesh:
        shardings = _shardings(CONFIG, mesh)
        create = jax.jit(functools.partial(init, CONFIG), out_shardings=shardings)
        sharded = create(jax.random.key(0))
    assert jax.tree.map(lambda leaf: leaf.sharding, sharded) == shardings
    chex.assert_trees_all_close(jax.device_get(sharded), jax.device_get(params), atol=1e-7)


@both_kinds_of_axes
def test_activations_are_split_by_batch_and_not_by_the_width_of_the_weights(axis_type):
    with _mesh(axis_type) as mesh:
        abstract = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            jax.eval_shape(lambda: init(CONFIG, jax.random.key(0))),
            _shardings(CONFIG, mesh),
        )
        batch = NamedSharding(mesh, P(BATCH, None))
        tokens = jax.ShapeDtypeStruct((8, 32), jnp.int32, sharding=batch)
        compiled = jax.jit(functools.partial(features, CONFIG)).lower(abstract, tokens).compile()
    by_batch = NamedSharding(mesh, P(BATCH, None, None))
    assert compiled.output_shardings.is_equivalent_to(by_batch, 3)
    # Of 8 sequences of 32 tokens and width 32, a device has a fourth of the batch; it never has
    # half of the batch and half of the width.
    program = compiled.as_text()
    assert "f32[2,32,32]" in program
    assert "f32[4,32,16]" not in program


@both_kinds_of_axes
def test_a_model_may_first_be_met_on_a_mesh(axis_type):
    # Nothing about this config has been computed, and cached, before.
    new = dataclasses.replace(CONFIG, norm_eps=2e-6 if axis_type == AxisType.Auto else 3e-6)
    with _mesh(axis_type):
        assert logical_axes(new) == logical_axes(CONFIG)
        shapes = jax.eval_shape(lambda: init(new, jax.random.key(0)))
    chex.assert_trees_all_equal_shapes(shapes, init(CONFIG, jax.random.key(0)))


@both_kinds_of_axes
def test_a_mesh_without_rules_is_allowed(params, axis_type):
    expected = jax.device_get(jax.jit(functools.partial(apply, CONFIG))(params, TOKENS))
    with _mesh(axis_type, rules={}) as mesh:
        sharded = jax.device_put(params, _shardings(CONFIG, mesh))
        tokens = jax.device_put(TOKENS, NamedSharding(mesh, P(BATCH)))
        logits = jax.jit(functools.partial(apply, CONFIG))(sharded, tokens)
    chex.assert_trees_all_close(jax.device_get(logits), expected, atol=1e-5)
