r"""The reference norm :math:`\bar g_t` that StratOpt divides by.

The paper writes :math:`\alpha_t = \|g_t\| / (\bar g_t + \epsilon)` (3.1) and leaves
:math:`\bar g_t` undefined. Each reading here is one moving average

.. math:: \bar g_t = \bar g_{t-1} + w_t (x_t - \bar g_{t-1}),

of norms after clipping, with its own :math:`x_t` and its own weight :math:`w_t`. All have
:math:`w_1 = 1`, so that a layer held against its own past starts with :math:`\alpha_1 = 1`, as the
paper's :math:`\alpha_0 = 1` would have it.
"""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

Reference = Literal["ema", "layer_mean", "running_mean", "global_ema"]
"""``'ema'``: a layer's own norm, averaged over time with an exponential decay (bias-corrected).
``'running_mean'``: a layer's own norm, averaged over all steps so far.
``'layer_mean'``: the mean over all layers, at this step alone.
``'global_ema'``: that mean over layers, averaged over time with an exponential decay."""

REFERENCES: tuple[str, ...] = get_args(Reference)


def update_reference(
    reference: Reference, gbar: jax.Array, norms: jax.Array, count: jax.Array, decay: Any
) -> jax.Array:
    """The reference norms of step ``count`` (from 1), which include that step's norms.

    Args:
      reference: the reading.
      gbar: the reference norms of the step before, float32 of shape (strata,).
      norms: this step's norms, float32 of shape (strata,).
      count: the number of this step, from 1.
      decay: the decay of the exponential averages, in [0, 1).
    """
    if reference in ("layer_mean", "global_ema"):
        norms = jnp.broadcast_to(jnp.mean(norms), norms.shape)
    match reference:
        case "layer_mean":
            return norms
        case "running_mean":
            weight = 1 / count
        case "ema" | "global_ema":
            # The bias-corrected average has w_t = (1 - d) / (1 - d^t). Written with log1p and expm1
            # it stays exact in float32, where 1 - d**t loses digits and w_1 would not be 1.
            weight = (1 - decay) / -jnp.expm1(count * jnp.log1p(-(1 - decay)))
    return gbar + weight.astype(jnp.float32) * (norms - gbar)
