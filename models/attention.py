"""Causal scaled dot-product attention, computed the way each platform likes it best.

Shapes: B batch, T query tokens, S key tokens (S = T), H head dimension,
N query heads, K key and value heads, G = N / K query heads per key head,
R rows of queries: the G heads of a group times the tokens of a block.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from models.config import TransformerConfig

MIN_BLOCK = 64  # Smaller blocks of queries cost more in overhead than they leave out.
MAX_BLOCKS = 4  # Bounds compile time; four blocks leave out 3/8 of all logits, infinitely many 1/2.

ResolvedKind = Literal["head_major", "xla", "cudnn"]


def resolve_kind(config: TransformerConfig, platform: str) -> ResolvedKind:
    """Replaces 'auto' by the fastest way of computing attention on a platform.

    cuDNN's flash attention takes half precision and heads of 8, 16, ... 128 dimensions; it needs
    an Ampere GPU or a later one, so ask for 'xla' on an older.

    Args:
        config: The model; any `config.attention` but 'auto' is returned as it is.
        platform: As in `jax.default_backend()`: 'cpu', 'gpu' or 'tpu'.

    Returns:
        'head_major', 'cudnn' or 'xla'.

    Examples:
        >>> from models import PRESETS
        >>> [resolve_kind(PRESETS["nano"], platform) for platform in ("cpu", "gpu", "tpu")]
        ['head_major', 'cudnn', 'xla']
    """
    if config.attention != "auto":
        return config.attention
    if platform == "cpu":
        return "head_major"
    suits_cudnn = config.dtype != "float32" and config.head_dim in range(8, 129, 8)
    return "cudnn" if platform == "gpu" and suits_cudnn else "xla"


def attend(
    query_BTNH: jax.Array,
    key_BSKH: jax.Array,
    value_BSKH: jax.Array,
    mask_BTS: jax.Array | None,
    kind: ResolvedKind,
) -> jax.Array:
    """Causal attention with grouped queries: query head n reads key head n // (N / K).

    Args:
        query_BTNH: Queries.
        key_BSKH: Keys; S = T.
        value_BSKH: Values, shaped like the keys.
        mask_BTS: True where a query may read a key, besides causality. None allows all.
        kind: 'head_major', 'xla' or 'cudnn'.

    Returns:
        What every head reads, [B, T, N, H] in the queries' dtype.
    """
    if kind == "head_major":
        return head_major_attention(query_BTNH, key_BSKH, value_BSKH, mask_BTS)
    return jax.nn.dot_product_attention(
        query_BTNH,
        key_BSKH,
        value_BSKH,
        mask=None if mask_BTS is None else mask_BTS[:, None],
        is_causal=True,
        implementation=kind,
    )


def head_major_attention(
    query_BTNH: jax.Array,
    key_BSKH: jax.Array,
    value_BSKH: jax.Array,
    mask_BTS: jax.Array | None = None,
) -> jax.Array:
    """The attention of `attend`, arranged by hand for XLA's CPU backend.

    Two things make it faster there than `jax.nn.dot_product_attention`. Heads go in front of
    tokens, with the query heads of a group stacked as rows, so that every product reads contiguous
    memory. And queries go block by block, each reading only the keys up to its own end, which
    leaves out most of what the causal mask would throw away.

    Examples:
        >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 5, 2, 8))
        >>> expected = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        >>> bool(jnp.allclose(head_major_attention(q, k, v), expected, atol=1e-5))
        True
    """
    B, T, N, H = query_BTNH.shape
    K = key_BSKH.shape[2]
    G = N // K
    query_BKGTH = query_BTNH.reshape(B, T, K, G, H).transpose(0, 2, 3, 1, 4)
    key_BKSH, value_BKSH = key_BSKH.swapaxes(1, 2), value_BSKH.swapaxes(1, 2)

    block = max(MIN_BLOCK, -(-T // MAX_BLOCKS))
    reads_BKGTH = []
    for start in range(0, T, block):
        stop = min(start + block, T)
        visible_TS = np.arange(start, stop)[:, None] >= np.arange(stop)
        if mask_BTS is not None:
            visible_TS = visible_TS & mask_BTS[:, None, start:stop, :stop]
        read_BKRH = _read(
            query_BKGTH[:, :, :, start:stop].reshape(B, K, -1, H),
            key_BKSH[:, :, :stop],
            value_BKSH[:, :, :stop],
            jnp.concatenate([visible_TS] * G, axis=-2),
        )
        reads_BKGTH.append(read_BKRH.reshape(B, K, G, -1, H))
    read_BKGTH = jnp.concatenate(reads_BKGTH, axis=3)
    return read_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


def _read(
    query_BKRH: jax.Array, key_BKSH: jax.Array, value_BKSH: jax.Array, visible: jax.Array
) -> jax.Array:
    """Softmax attention of rows R to keys S; every row must see at least one key."""
    logits_BKRS = jnp.einsum(
        "BKRH,BKSH->BKRS", query_BKRH, key_BKSH, preferred_element_type=jnp.float32
    )
    scaled_BKRS = jnp.where(visible, logits_BKRS * query_BKRH.shape[-1] ** -0.5, -jnp.inf)
    weights_BKRS = jax.nn.softmax(scaled_BKRS).astype(value_BKSH.dtype)
    return jnp.einsum("BKRS,BKSH->BKRH", weights_BKRS, value_BKSH)
