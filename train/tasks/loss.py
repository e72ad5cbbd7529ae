"""Next-token cross-entropy: of given logits, and of a model's batch.

B batch, T sequence, V vocabulary, D width.
"""

from __future__ import annotations

import functools

import optax
from jax import Array

import models
from models.sharding import shards
from train.data import Batch
from train.tasks.chunked_loss import chunked_cross_entropy

CHUNK = 8192
"""Tokens of a chunk: fewer cost more launches than they save memory."""

WHOLE_BYTES = 2**28
"""Logits of a device up to this size are left whole, which is fastest where they fit a cache."""


def cross_entropy(logits_BTV: Array, targets_BT: Array, weights_BT: Array) -> tuple[Array, Array]:
    """Negative log-likelihood of the targets, summed, and how many positions counted.

    The two are returned apart so that batches, shards and validation windows of different weight
    add up to an exact mean.

    Args:
      logits_BTV: Unnormalized log-probabilities, float32.
      targets_BT: The next token at each position, int32.
      weights_BT: 1 where a position counts and 0 where it is padding, float32.

    Returns:
      The sum of the losses in nats and the sum of the weights, float32 scalars.

    Example:
      >>> import jax.numpy as jnp
      >>> targets, weights = jnp.zeros((1, 3), int), jnp.ones((1, 3))
      >>> total, weight = cross_entropy(jnp.zeros((1, 3, 8)), targets, weights)
      >>> round(float(total / weight), 4)  # ln 8
      2.0794
    """
    losses_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, targets_BT)
    return (losses_BT * weights_BT).sum(), weights_BT.sum()


def batch_loss(
    config: models.TransformerConfig,
    params: models.Params,
    batch: Batch,
    loss_chunk: int | None = None,
) -> tuple[Array, Array]:
    """The `cross_entropy` of a model on a batch, in as many chunks as its size asks for.

    Args:
      config: The model.
      params: Its parameters.
      batch: Tokens, targets and weights; with segment ids, attention stays inside documents.
      loss_chunk: Tokens of a device whose logits exist at once. None takes `CHUNK`, or all where
        their logits fit in `WHOLE_BYTES`.

    Returns:
      The sum of the losses in nats and the sum of the weights, float32 scalars.
    """
    x_BTD = models.features(config, params, batch.inputs_BT, batch.segment_ids_BT)
    rows, length = batch.targets_BT.shape
    tokens = -(-rows // shards("batch")) * length
    at_once = logit_tokens(config, tokens, loss_chunk)
    if at_once == tokens and _fit_whole(config, tokens):
        logits_BTV = models.unembed(config, params, x_BTD)
        return cross_entropy(logits_BTV, batch.targets_BT, batch.weights_BT)
    total = chunked_cross_entropy(
        functools.partial(models.unembed, config),
        min(length, -(-tokens // at_once)),  # At most one a position.
        models.head_params(config, params),
        x_BTD,
        batch.targets_BT,
        batch.weights_BT,
    )
    return total, batch.weights_BT.sum()


def logit_tokens(
    config: models.TransformerConfig, tokens: int, loss_chunk: int | None = None
) -> int:
    """How many of a device's tokens have their logits in memory at once.

    Example:
      >>> from models import PRESETS
      >>> [logit_tokens(PRESETS[name], 65_536) for name in ("nano", "paper_wide")]
      [65536, 8192]
    """
    whole = loss_chunk is None and _fit_whole(config, tokens)
    return tokens if whole else min(tokens, loss_chunk or CHUNK)


def _fit_whole(config: models.TransformerConfig, tokens: int) -> bool:
    return 4 * tokens * config.vocab_size <= WHOLE_BYTES
