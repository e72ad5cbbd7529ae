"""Cross-entropy in chunks of the sequence, so that all logits never exist at once.

With a vocabulary of 32,000 the float32 logits of 65,536 tokens are 8.4 GB, and softmax and gradient
want as much again. Here a loop makes the logits of one chunk at a time, and takes their gradient
before it makes the next: the forward pass already knows what the backward pass returns, up to a
factor. So nothing is computed twice, and what is kept is the gradient of features and head.

On a mesh every device loops over its own rows and sums its own gradient of the head; the devices'
sums are added once, after the loop, and not in every turn.

B batch, T sequence, D width, V vocabulary, K chunks, S shards of the batch, R = B / S rows of a
shard, C = T / K tokens of a chunk.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from models.sharding import constrain, shards

Unembed = Callable[[Any, Array], Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def chunked_cross_entropy(
    unembed: Unembed, chunks: int, head: Any, x_BTD: Array, targets_BT: Array, weights_BT: Array
) -> Array:
    """The sum of `train.tasks.loss.cross_entropy`, from features instead of logits.

    Args:
      unembed: `(head, x_BTD) -> logits_BTV`, float32; linear in the features.
      chunks: K, at least 1; T need not be a multiple.
      head: What `unembed` reads. Its gradient is summed over the chunks in its own dtype.
      x_BTD: Features.
      targets_BT: The next token at each position, int32.
      weights_BT: 1 where a position counts and 0 where it is padding, float32.

    Returns:
      The sum of the losses in nats, a float32 scalar.

    Example:
      >>> x, head = jnp.ones((1, 3, 2)), jnp.zeros((2, 8))
      >>> targets, weights = jnp.zeros((1, 3), int), jnp.ones((1, 3))
      >>> total = chunked_cross_entropy(lambda head, x: x @ head, 2, head, x, targets, weights)
      >>> round(float(total / 3), 4)  # ln 8
      2.0794
    """

    def turn(total: Array, chunk: tuple[Array, Array, Array]) -> tuple[Array, None]:
        x_SRCD, targets_SRC, weights_SRC = chunk
        logits_SRCV = jax.vmap(unembed, in_axes=(None, 0))(head, x_SRCD)
        return total + (_nats(logits_SRCV, targets_SRC)[0] * weights_SRC).sum(), None

    cut = (_cut(x_BTD, chunks), _cut(targets_BT, chunks), _cut(weights_BT, chunks))
    return jax.lax.scan(turn, jnp.zeros(()), cut)[0]


def _forward(
    unembed: Unembed, chunks: int, head: Any, x_BTD: Array, targets_BT: Array, weights_BT: Array
) -> tuple[Array, tuple[Any, Array, Array]]:
    def shard_turn(
        head: Any, x_RCD: Array, targets_RC: Array, weights_RC: Array
    ) -> tuple[Any, tuple[Array, Array]]:
        logits_RCV, pull_back = jax.vjp(unembed, head, x_RCD)
        nats_RC, slope_RCV = _nats(logits_RCV, targets_RC)
        d_head, dx_RCD = pull_back(slope_RCV * weights_RC[..., None])
        return d_head, (nats_RC, dx_RCD)

    def turn(d_head: Any, chunk: tuple[Array, Array, Array]) -> tuple[Any, tuple[Array, Array]]:
        more, results = jax.vmap(shard_turn, in_axes=(None, 0, 0, 0))(head, *chunk)
        return jax.tree.map(jnp.add, d_head, more), results

    cut = (_cut(x_BTD, chunks), _cut(targets_BT, chunks), _cut(weights_BT, chunks))
    zeros = jax.tree.map(functools.partial(_zeros_per_shard, cut[0].shape[1]), head)
    d_head, (nats_KSRC, dx_KSRCD) = jax.lax.scan(turn, zeros, cut)
    nats_BT, dx_BTD = _join(nats_KSRC, x_BTD), _join(dx_KSRCD, x_BTD)
    d_head = jax.tree.map(lambda per_shard: per_shard.sum(axis=0), d_head)
    return (nats_BT * weights_BT).sum(), (d_head, dx_BTD, nats_BT)


def _backward(
    unembed: Unembed, chunks: int, kept: tuple[Any, Array, Array], slope: Array
) -> tuple[Any, Array, None, Array]:
    d_head, dx_BTD, nats_BT = jax.tree.map(lambda d: (slope * d).astype(d.dtype), kept)
    return d_head, dx_BTD, None, nats_BT


chunked_cross_entropy.defvjp(_forward, _backward)


def _nats(logits_V: Array, targets: Array) -> tuple[Array, Array]:
    """Negative log-likelihoods and their gradient by the logits: softmax less one-hot.

    The target is found by comparison: unlike a gather this needs no pass of its own, and no
    exchange between devices that share the vocabulary.
    """
    is_target_V = targets[..., None] == jnp.arange(logits_V.shape[-1])
    log_normalizer = jax.lax.platform_dependent(
        logits_V, cpu=functools.partial(jax.nn.logsumexp, axis=-1), default=_logsumexp_in_one_pass
    )
    nats = log_normalizer - jnp.where(is_target_V, logits_V, 0.0).sum(axis=-1)
    return nats, jnp.exp(logits_V - log_normalizer[..., None]) - is_target_V


def _logsumexp_in_one_pass(logits_V: Array) -> Array:
    """Reads the logits once, where a maximum and a sum read them twice; slow on a CPU."""

    def join(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
        """Two pairs (m, s), each standing for a sum of s exp(m), as one."""
        (m, s), (n, t) = one, other
        shrink = jnp.exp(-jnp.abs(m - n))
        return jnp.maximum(m, n), jnp.where(m > n, s + shrink * t, shrink * s + t)

    empty = jnp.finfo(logits_V.dtype).min, jnp.zeros((), logits_V.dtype)
    last = (logits_V.ndim - 1,)
    m, s = jax.lax.reduce((logits_V, jnp.ones_like(logits_V)), empty, join, last)
    return m + jnp.log(s)


def _cut(array_BT: Array, chunks: int) -> Array:
    """[B, T, ...] to [K, S, R, C, ...], the last chunk filled up with zeros; no row moves."""
    B, T, *rest = array_BT.shape
    S, length = math.gcd(B, shards("batch")), -(-T // chunks)
    padding = [(0, 0), (0, chunks * length - T), *((0, 0) for _ in rest)]
    parts_SRKC = jnp.pad(array_BT, padding).reshape(S, B // S, chunks, length, *rest)
    parts_KSRC = jnp.moveaxis(parts_SRKC, 2, 0)
    return constrain(parts_KSRC, None, "batch", *(None for _ in parts_KSRC.shape[2:]))


def _join(parts_KSRC: Array, like_BT: Array) -> Array:
    """Undoes `_cut`."""
    B, T = like_BT.shape[:2]
    parts_SRKC = jnp.moveaxis(parts_KSRC, 0, 2)
    return parts_SRKC.reshape(B, -1, *parts_SRKC.shape[4:])[:, :T]


def _zeros_per_shard(count: int, array: Array) -> Array:
    zeros = jnp.zeros((count, *array.shape), array.dtype)
    return constrain(zeros, "batch", *("as the head" for _ in array.shape))  # No such rule: free.
