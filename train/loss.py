"""Next-token cross-entropy.

B batch, T sequence, V vocabulary.
"""

from __future__ import annotations

import optax
from jax import Array


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
