r"""What StratOpt's paper names and does not define: the reference norm, and what mixes gradients.

The paper writes :math:`\alpha_t = \|g_t\| / (\bar g_t + \epsilon)` (3.1) and leaves
:math:`\bar g_t` undefined. Each reading here is one moving average

.. math:: \bar g_t = \bar g_{t-1} + w_t (x_t - \bar g_{t-1}),

of norms after clipping, with its own :math:`x_t` and its own weight :math:`w_t`. All have
:math:`w_1 = 1`, so that a layer held against its own past starts with :math:`\alpha_1 = 1`, as the
paper's :math:`\alpha_0 = 1` would have it.

It "combines three key components: (1) layer-wise learning rate adaptation, (2) variance-stabilized
gradient updates, and (3) dynamic gradient mixing" (section 1), and does not define the third;
"dynamic adjustment of momentum parameters" is among its future work (section 6). Both are read as
functions of :math:`\cos(g_t, m_{t-1})`, layer by layer.

References:
  O'Donoghue and Candès, `Adaptive Restart for Accelerated Gradient Schemes
  <https://arxiv.org/abs/1204.3982>`_, 2012
"""

import dataclasses
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_strat import _checks, _strata

Reference: TypeAlias = Literal["ema", "layer_mean", "running_mean", "global_ema"]
"""``'ema'``: a layer's own norm, averaged over time with an exponential decay (bias-corrected).
``'running_mean'``: a layer's own norm, averaged over all steps so far.
``'layer_mean'``: the mean over all layers, at this step alone.
``'global_ema'``: that mean over layers, averaged over time with an exponential decay."""

REFERENCES: tuple[str, ...] = get_args(Reference)

SHORTEST = 1e-18
"""Gradients and momenta that are shorter than this have no direction: their squares underflow."""


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
        norms = jnp.broadcast_to(jnp.sum(norms / norms.size), norms.shape)  # cannot overflow
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


@dataclasses.dataclass(frozen=True)
class StratoptReadings:
    r"""What StratOpt's paper names and does not define; every field is one ablation."""

    reference_decay: ArrayLike = 0.99
    """Decay of the reference norm's averages over time, in [0, 1)."""
    gradient_mixing: ArrayLike | None = None
    r"""κ, 0 or above, or None for none. The "dynamic gradient mixing" that section 1 names: the
    numerator becomes :math:`(1 - w_t) m_t + w_t g_t` with :math:`w_t = \kappa \max(0, \cos(g_t,
    m_{t-1}))`: Nesterov's look-ahead, with a weight that each layer earns."""
    momentum_adjustment: ArrayLike | None = None
    r"""δ, 0 or above, or None for none. "Dynamic adjustment of momentum parameters" (section 6):
    each stratum's decay of the first moment is :math:`\beta_1 + \delta \cos(g_t, m_{t-1})`, longer
    where gradients agree and shorter where they turn. Both ends must lie in [0, 1)."""
    centred: bool = False
    """Use :math:`(g_t - m_t)^2` in v_t, a variance proper: "variance-stabilized gradient updates"
    (section 1)."""
    stratum: _strata.Stratum = "layer"
    """What has one norm and one α_t: ``'layer'``, ``'block'`` (all tensors of a layer of the
    network) or ``'type'``. "More sophisticated layer-wise adaptation rules" (section 6)."""

    def __post_init__(self) -> None:
        _checks.check_decay("reference_decay", self.reference_decay)
        for name in ("gradient_mixing", "momentum_adjustment"):
            if getattr(self, name) is not None:
                _checks.check_not_negative(name, getattr(self, name))
        _checks.check_choice("stratum", self.stratum, ("layer", "block", "type"))

    def check(self, b1: ArrayLike) -> None:
        """Raises ValueError where a first moment with the decay b1 does not bear these readings."""
        if _checks.is_number(b1) and b1 == 0 and (self.centred or self.gradient_mixing is not None):
            raise ValueError("b1=0 keeps no first moment, which centred and gradient_mixing need.")
        adjustment = self.momentum_adjustment
        if not (_checks.is_number(adjustment) and _checks.is_number(b1)):
            return
        if b1 - adjustment < 0 or b1 + adjustment >= 1:
            raise ValueError(
                f"momentum_adjustment must keep b1 ± momentum_adjustment in [0, 1), but with "
                f"b1={b1!r} it is {adjustment!r}."
            )


def momentum(
    gradients: Any, mu: Any, strata: _strata.Strata, b1: ArrayLike, readings: StratoptReadings
) -> tuple[Any, Any]:
    """This step's decay of the first moment, and the weight of the gradient beside it.

    Args:
      gradients: g_t.
      mu: m_{t-1}.
      strata: the strata of both.
      b1: β_1.
      readings: κ, or None for a weight of zero, and δ, or None for β_1 as it is.

    Returns:
      β_{1,t} and w_t, each a number or a vector of shape (strata,).
    """
    mixing, adjustment = readings.gradient_mixing, readings.momentum_adjustment
    if mixing is None and adjustment is None:
        return b1, 0.0
    cosines = _cosines(gradients, mu, strata)
    return (
        b1 if adjustment is None else b1 + adjustment * cosines,
        0.0 if mixing is None else mixing * jnp.maximum(cosines, 0.0),
    )


def _cosines(gradients: Any, mu: Any, strata: _strata.Strata) -> jax.Array:
    """The cosine of each stratum's angle; zero where gradient or momentum is zero."""
    lengths = strata.norms(gradients), strata.norms(mu)
    inner = strata.inner_products(gradients, mu)
    # Only where it can be had (the inner product can overflow), and only there divided: the slopes
    # of what is not selected must be finite too.
    known = jnp.isfinite(inner) & (lengths[0] > SHORTEST) & (lengths[1] > SHORTEST)
    for length in lengths:
        inner = jnp.where(known, inner, 0.0) / jnp.where(known, length, 1.0)
    return jnp.clip(inner, -1.0, 1.0)
