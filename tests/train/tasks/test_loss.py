"""The loss is the sum of the targets' negative log-likelihoods over the positions that count."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import models
from benchmarks.parts import hlo
from models import PRESETS
from tests.support import tiny
from train.config.run import MeshConfig
from train.data import Batch
from train.step.sharding import batch_sharding, make_mesh, parameter_shardings, tracing_on
from train.tasks.chunked_loss import _logsumexp_in_one_pass, chunked_cross_entropy
from train.tasks.loss import CHUNK, batch_loss, cross_entropy, logit_tokens

TIED = dataclasses.replace(tiny.MODEL, tied_head=True)


def reference(logits, targets, weights):
    """In float64, one position after the other."""
    total = 0.0
    for b, t in np.ndindex(*targets.shape):
        row = logits[b, t].astype(np.float64)
        log_normalizer = row.max() + np.log(np.exp(row - row.max()).sum())
        total += weights[b, t] * (log_normalizer - row[targets[b, t]])
    return total, weights.sum(dtype=np.float64)


@given(st.sampled_from([(1, 1, 2), (3, 5, 9)]), st.integers(0, 2**32 - 1))
def test_loss_equals_the_float64_definition(shape, seed):
    batch, length, vocab = shape
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(batch, length, vocab), scale=8.0).astype(np.float32)
    targets = rng.integers(vocab, size=(batch, length))
    weights = rng.integers(2, size=(batch, length)).astype(np.float32)
    total, weight = cross_entropy(logits, targets, weights)
    expected_total, expected_weight = reference(logits, targets, weights)
    np.testing.assert_allclose(total, expected_total, rtol=2e-6, atol=1e-5)
    assert weight == expected_weight


def test_padding_changes_nothing():
    logits = np.random.default_rng(0).normal(size=(2, 4, 7)).astype(np.float32)
    targets = np.array([[1, 2, 3, 4], [5, 6, 0, 1]])
    weights = np.ones((2, 4), np.float32)
    weights[1, 2:] = 0
    scrambled = np.where(weights[..., None] == 0, 1e3, logits)
    np.testing.assert_array_equal(
        cross_entropy(logits, targets, weights), cross_entropy(scrambled, targets, weights)
    )


def batch_of(rows, length, vocab=tiny.MODEL.vocab_size):
    """Some positions do not count, others count half."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(vocab, size=(rows, length + 1), dtype=np.int32)
    weights = rng.choice([0.0, 0.5, 1.0], size=(rows, length)).astype(np.float32)
    return Batch(tokens[:, :-1], tokens[:, 1:], weights)


def mean_loss(config, loss_chunk, params, batch):
    total, weight = batch_loss(config, params, batch, loss_chunk)
    return total / weight


def loss_and_gradient(config, loss_chunk):
    return jax.jit(jax.value_and_grad(functools.partial(mean_loss, config, loss_chunk)))


def params_of(config):
    params = jax.tree.map(lambda leaf: 5 * leaf, tiny.params())  # Far from a uniform guess.
    return {name: params[name] for name in models.logical_axes(config)}


@pytest.mark.parametrize(
    ("config", "loss_chunk"),
    [(tiny.MODEL, 32), (TIED, 24)],
    ids=["a head, chunks that divide", "a tied head, chunks with a rest"],
)
def test_chunks_change_neither_the_loss_nor_its_gradient(config, loss_chunk):
    params, batch = params_of(config), batch_of(8, 16)
    whole = loss_and_gradient(config, 8 * 16)(params, batch)
    chunked = loss_and_gradient(config, loss_chunk)(params, batch)
    chex.assert_trees_all_close(chunked, whole, rtol=1e-5, atol=1e-6)
    evaluated = jax.jit(functools.partial(mean_loss, config, loss_chunk))(params, batch)
    np.testing.assert_allclose(evaluated, whole[0], rtol=1e-6)


def test_logits_too_large_to_leave_whole_take_the_chunked_way_as_a_single_chunk(monkeypatch):
    params, batch = params_of(tiny.MODEL), batch_of(2, 16)
    whole = loss_and_gradient(tiny.MODEL, None)
    assert "while" not in whole.lower(params, batch).as_text()
    expected = whole(params, batch)
    monkeypatch.setattr("train.tasks.loss.WHOLE_BYTES", 0)
    single = loss_and_gradient(tiny.MODEL, None)
    assert "scatter" not in str(jax.make_jaxpr(jax.grad(by_head(params, batch)))(params["head"]))
    chex.assert_trees_all_close(single(params, batch), expected, rtol=1e-5, atol=1e-6)


def by_head(params, batch):
    """The loss as a function of the head alone."""
    return lambda head: mean_loss(tiny.MODEL, None, params | {"head": head}, batch)


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e30])
def test_the_normalizer_in_one_pass_is_that_of_two(scale):
    logits = scale * jax.random.normal(jax.random.key(0), (3, 1000))
    expected = jax.nn.logsumexp(logits, axis=-1)
    np.testing.assert_allclose(_logsumexp_in_one_pass(logits), expected, rtol=1e-6)


def test_the_normalizer_in_one_pass_leaves_out_what_has_no_probability():
    logits = jnp.array([[-jnp.inf, 1.0, 2.0], [jnp.nan, 1.0, 2.0]])
    found = _logsumexp_in_one_pass(logits)
    np.testing.assert_allclose(found, jax.nn.logsumexp(logits, axis=-1), rtol=1e-6)


def test_chunks_pass_on_the_gradient_of_the_weights():
    x, head = jax.random.normal(jax.random.key(0), (2, 3, 4)), jnp.eye(4, 7)
    _, targets, weights = batch_of(2, 3, vocab=7)[:3]

    def chunked(weights):
        return chunked_cross_entropy(lambda head, x: x @ head, 2, head, x, targets, weights)

    def whole(weights):
        return cross_entropy(x @ head, targets, weights)[0]

    np.testing.assert_allclose(jax.grad(chunked)(weights), jax.grad(whole)(weights), rtol=1e-5)


FSDP, ALL_AXES = MeshConfig(data=1, fsdp=8), MeshConfig(data=2, fsdp=2, tensor=2)


@functools.cache
def sharded(mesh_config, loss_chunk):
    """Loss and gradient, compiled for a mesh, and its arguments."""
    mesh, params, batch = make_mesh(mesh_config), params_of(tiny.MODEL), batch_of(8, 16)
    shardings = parameter_shardings(mesh, models.logical_axes(tiny.MODEL), params)
    placed = jax.device_put(params, shardings), jax.device_put(batch, batch_sharding(mesh, 8))
    loss = functools.partial(mean_loss, tiny.MODEL, loss_chunk)
    step = jax.jit(jax.value_and_grad(loss), out_shardings=(None, shardings))
    with tracing_on(mesh):
        return step.lower(*placed).compile(), placed


@pytest.mark.parametrize("mesh_config", [FSDP, ALL_AXES], ids=["fsdp", "all three axes"])
def test_chunks_on_a_mesh_change_neither_the_loss_nor_its_gradient(mesh_config):
    compiled, placed = sharded(mesh_config, 4)
    expected = loss_and_gradient(tiny.MODEL, 8 * 16)(params_of(tiny.MODEL), batch_of(8, 16))
    found, expected = jax.device_get((compiled(*placed), expected))
    chex.assert_trees_all_close(found, expected, rtol=2e-5, atol=2e-6)


def test_more_chunks_make_no_more_exchanges_between_devices():
    two, four = (hlo.traffic(sharded(FSDP, loss_chunk)[0]) for loss_chunk in (8, 4))
    assert two.kernels < four.kernels
    assert two.collectives == four.collectives


def test_all_logits_never_exist_at_once():
    config = dataclasses.replace(tiny.MODEL, vocab_size=8192, context=64, layers=1)
    params = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    batch = batch_of(16, 64)
    logit_bytes = 4 * 16 * 64 * config.vocab_size

    def temporary_bytes(loss_chunk):
        compiled = loss_and_gradient(config, loss_chunk).lower(params, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(16 * 64) > logit_bytes
    assert temporary_bytes(32) < logit_bytes / 4


def test_small_batches_are_left_whole_and_large_ones_cut():
    nano, paper = PRESETS["nano"], PRESETS["paper_wide"]
    assert logit_tokens(nano, 16 * 128) == 16 * 128
    assert logit_tokens(paper, 16 * 4096) == CHUNK
    assert logit_tokens(paper, 100) == 100
    assert logit_tokens(nano, 16 * 128, loss_chunk=100) == 100


def test_documents_packed_into_a_row_cost_what_they_cost_alone():
    params, alone = params_of(tiny.MODEL), batch_of(2, 8)
    row = Batch(*(np.reshape(part, (1, 16)) for part in alone[:3]))
    segment_ids = np.repeat([[1, 2]], 8, axis=1).astype(np.int32)
    expected = batch_loss(tiny.MODEL, params, alone)
    packed = batch_loss(tiny.MODEL, params, row._replace(segment_ids_BT=segment_ids), loss_chunk=4)
    np.testing.assert_allclose(packed, expected, rtol=1e-5)
    assert abs(batch_loss(tiny.MODEL, params, row)[0] - expected[0]) > 1e-3
