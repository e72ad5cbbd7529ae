r"""What an optimizer makes of the angle between a layer's gradient and its momentum.

StratOpt "combines three key components: (1) layer-wise learning rate adaptation, (2)
variance-stabilized gradient updates, and (3) dynamic gradient mixing" (section 1), and does not
define the third; "dynamic adjustment of momentum parameters" is among its future work (section 6).
Both are read here as functions of :math:`\cos(g_t, m_{t-1})`:

* Mixing is Nesterov's look-ahead with a weight that each layer earns: the numerator :math:`m_t`
  becomes :math:`(1 - w_t) m_t + w_t g_t` with :math:`w_t = \kappa \max(0, \cos(g_t, m_{t-1}))`.
  Where the gradient agrees with the momentum it is trusted more; else momentum decides.
* Adjustment makes the momentum itself longer or shorter, :math:`\beta_{1,t} = \beta_1 + \delta
  \cos(g_t, m_{t-1})`: a gradient that points back makes the layer forget sooner, a gentle form of
  restarting momentum when it has overshot.

References:
  O'Donoghue and Candès, `Adaptive Restart for Accelerated Gradient Schemes
  <https://arxiv.org/abs/1204.3982>`_, 2012
"""

from typing import Any

import jax
import jax.numpy as jnp

from optax_strat import _checks, _strata


def momentum(
    gradients: Any, mu: Any, strata: _strata.Strata, b1: Any, mixing: Any, adjustment: Any
) -> tuple[Any, Any]:
    """This step's decay of the first moment, and the weight of the gradient beside it.

    Args:
      gradients: g_t.
      mu: m_{t-1}.
      strata: the strata of both.
      b1: β_1.
      mixing: κ, or None for a weight of zero.
      adjustment: δ, or None for β_1 as it is.

    Returns:
      β_{1,t} and w_t, each a number or a vector of shape (strata,).
    """
    if mixing is None and adjustment is None:
        return b1, 0.0
    cosines = _cosines(gradients, mu, strata)
    return (
        b1 if adjustment is None else b1 + adjustment * cosines,
        0.0 if mixing is None else mixing * jnp.maximum(cosines, 0.0),
    )


def check_adjustment(adjustment: Any, b1: Any) -> None:
    """Raises ValueError unless β_1 stays in [0, 1) at every angle."""
    if adjustment is None:
        return
    _checks.check_not_negative("momentum_adjustment", adjustment)
    if not (_checks.is_number(adjustment) and _checks.is_number(b1)):
        return
    if b1 - adjustment < 0 or b1 + adjustment >= 1:
        raise ValueError(
            f"momentum_adjustment must keep b1 ± momentum_adjustment in [0, 1), but with b1={b1!r} "
            f"it is {adjustment!r}."
        )


def _cosines(gradients: Any, mu: Any, strata: _strata.Strata) -> jax.Array:
    """The cosine of each stratum's angle; zero where gradient or momentum is zero."""
    inner = strata.sums(_strata.inner_products(gradients, mu, strata.leaves))
    lengths = strata.norms(gradients) * strata.norms(mu)
    cosines = jnp.where(lengths > 0, inner / jnp.maximum(lengths, 1e-30), 0.0)
    return jnp.clip(jnp.nan_to_num(cosines), -1.0, 1.0)  # the inner product can overflow
