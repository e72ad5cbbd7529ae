"""All ways of computing attention agree, and positions enter only as differences."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import PRESETS
from models.attention import attend, head_major_attention, resolve_kind
from models.products import product
from models.rotary import rotate, rotation, segment_positions

# 150 tokens make three blocks of queries, the last of them short.
BATCH, TOKENS, HEADS, HEAD_DIM = 2, 150, 4, 8
ROTATION = jax.jit(lambda positions: rotation(positions, HEAD_DIM, 10_000.0))

POSITIONS = jax.jit(segment_positions)


def _queries_keys_values(kv_heads, dtype="float32"):
    keys = jax.random.split(jax.random.key(kv_heads), 3)
    return tuple(
        jax.random.normal(key, (BATCH, TOKENS, heads, HEAD_DIM)).astype(dtype)
        for key, heads in zip(keys, (HEADS, kv_heads, kv_heads), strict=True)
    )


def _packed_mask():
    starts = jax.random.bernoulli(jax.random.key(7), 0.04, (BATCH, TOKENS))
    segments = jnp.cumsum(starts, axis=1)
    return segments[:, :, None] == segments[:, None, :]


@pytest.mark.parametrize(("kv_heads", "packed"), [(4, False), (2, False), (1, True), (4, True)])
def test_head_major_attention_equals_the_one_of_jax_and_so_do_its_gradients(kv_heads, packed):
    mask = _packed_mask() if packed else None
    weights = jax.random.normal(jax.random.key(1), (BATCH, TOKENS, HEADS, HEAD_DIM))

    def value_and_gradients(kind):
        def weighted_sum(operands):
            read = attend(*operands, mask, kind)
            return jnp.sum(weights * read), read

        return jax.jit(jax.grad(weighted_sum, has_aux=True))(_queries_keys_values(kv_heads))

    chex.assert_trees_all_close(
        value_and_gradients("head_major"), value_and_gradients("xla"), atol=2e-5
    )


def test_attention_equals_a_loop_over_tokens():
    query, key, value = (np.asarray(x, np.float64) for x in _queries_keys_values(HEADS))
    expected = np.zeros_like(query)
    for b, t, n in np.ndindex(BATCH, TOKENS, HEADS):
        logits = key[b, : t + 1, n] @ query[b, t, n] / np.sqrt(HEAD_DIM)
        weights = np.exp(logits) / np.exp(logits).sum()
        expected[b, t, n] = weights @ value[b, : t + 1, n]
    read = head_major_attention(*_queries_keys_values(HEADS))
    chex.assert_trees_all_close(np.asarray(read, np.float64), expected, atol=1e-5)


def test_softmax_stays_in_float32_when_the_heads_are_bfloat16():
    exact = head_major_attention(*_queries_keys_values(2))
    rounded = head_major_attention(*_queries_keys_values(2, "bfloat16"))
    assert rounded.dtype == jnp.bfloat16
    # The inputs are rounded to 8 bits; a softmax in bfloat16 over 150 keys would be far worse.
    chex.assert_trees_all_close(rounded.astype(jnp.float32), exact, atol=0.03)


@pytest.mark.parametrize(
    ("platform", "change", "kind"),
    [
        ("cpu", {}, "head_major"),
        ("tpu", {}, "xla"),
        ("gpu", {}, "cudnn"),
        ("gpu", {"dtype": "float16"}, "cudnn"),
        ("gpu", {"dtype": "float32"}, "xla"),
        ("gpu", {"heads": 16}, "xla"),
    ],
)
def test_auto_chooses_by_platform_dtype_and_head_dimension(platform, change, kind):
    config = dataclasses.replace(PRESETS["nano"], **change)
    assert resolve_kind(config, platform) == kind
    assert resolve_kind(dataclasses.replace(config, attention="xla"), platform) == "xla"


@given(query_at=st.integers(0, 2000), key_at=st.integers(0, 2000), shift=st.integers(-2000, 2000))
def test_rotated_products_depend_on_the_distance_between_positions_alone(query_at, key_at, shift):
    product = _rotated_product(query_at, key_at)
    assert _rotated_product(query_at + shift, key_at + shift) == pytest.approx(product, abs=5e-3)
    if query_at != key_at:
        assert _rotated_product(query_at, query_at) != pytest.approx(product, abs=1e-4)


def _rotated_product(query_at, key_at):
    angles = ROTATION(jnp.array([[query_at, key_at]]))
    query, key = rotate(jax.random.normal(jax.random.key(0), (1, 2, 1, HEAD_DIM)), angles)[0]
    return float(jnp.vdot(query, key))


def test_rotation_keeps_lengths_and_starts_at_the_identity():
    x = jax.random.normal(jax.random.key(0), (1, 5, 2, HEAD_DIM))
    turned = rotate(x, rotation(jnp.arange(5)[None], HEAD_DIM, 10_000.0))
    chex.assert_trees_all_close(turned[:, 0], x[:, 0])
    chex.assert_trees_all_close(
        jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5
    )
    assert not jnp.allclose(turned[:, 1], x[:, 1], atol=0.1)


def test_rotation_angles_are_those_of_the_paper():
    angles = rotation(jnp.array([[3]]), 4, 100.0)
    chex.assert_trees_all_close(angles.cos[0, 0], jnp.cos(jnp.array([3.0, 0.3])), atol=1e-6)
    chex.assert_trees_all_close(angles.sin[0, 0], jnp.sin(jnp.array([3.0, 0.3])), atol=1e-6)


def test_angles_of_numpy_positions_are_known_before_the_program_runs():
    positions = np.arange(500)[None]
    known = rotation(positions, HEAD_DIM, 10_000.0)
    assert all(isinstance(angles, np.ndarray) for angles in known)
    chex.assert_trees_all_close(known, ROTATION(jnp.asarray(positions)), atol=1e-4)


@given(st.sets(st.integers(1, 19)))
def test_positions_count_from_zero_in_every_document(starts):
    documents = np.split(np.arange(20), sorted(starts))
    segments = np.concatenate([np.full(len(d), 7 + i) for i, d in enumerate(documents)])
    expected = np.concatenate([np.arange(len(d)) for d in documents])
    np.testing.assert_array_equal(POSITIONS(segments[None])[0], expected)


@pytest.mark.parametrize("equation", ["BTD,DNH->BTNH", "BTNH,NHD->BTD", "BTD,VD->BTV"])
def test_a_product_is_an_einsum_with_the_same_gradients(equation):
    left, right = equation.split("->")[0].split(",")
    sizes = dict(zip("BTDNHV", range(2, 8), strict=True))
    keys = jax.random.split(jax.random.key(0))
    operands = tuple(
        jax.random.normal(key, [sizes[letter] for letter in letters])
        for key, letters in zip(keys, (left, right), strict=True)
    )

    def gradients(einsum):
        return jax.grad(lambda x, y: jnp.sum(jnp.sin(einsum(equation, x, y))), (0, 1))

    @functools.partial(jax.jit, static_argnums=0)
    def derivatives(einsum):
        # Second-order optimizers differentiate the gradient once more, along a direction.
        return einsum(equation, *operands), jax.jvp(gradients(einsum), operands, operands)

    chex.assert_trees_all_close(derivatives(product), derivatives(jnp.einsum), atol=1e-4)


def test_a_product_sums_over_heads_in_the_order_in_which_they_lie_in_memory():
    heads, kernel = jnp.ones((2, 3, 4, 5)), jnp.ones((4, 5, 6))
    lowered = jax.jit(functools.partial(product, "BTNH,NHD->BTD")).lower(heads, kernel)
    assert "contracting_dims = [2, 3] x [0, 1]" in lowered.as_text()


def test_a_product_of_half_precision_can_be_float32_with_gradients_of_half_precision():
    x, y = jax.random.normal(jax.random.key(0), (2, 6, 6)).astype(jnp.bfloat16)
    result, pull_back = jax.vjp(lambda x, y: product("AB,BC->AC", x, y, jnp.float32), x, y)
    exact = x.astype(jnp.float32) @ y.astype(jnp.float32)
    assert result.dtype == jnp.float32
    chex.assert_trees_all_close(result, exact, rtol=1e-6)
    chex.assert_trees_all_equal_dtypes(pull_back(jnp.ones_like(result)), (x, y))
