r"""Dynamic gradient mixing.

StratOpt "combines three key components: (1) layer-wise learning rate adaptation, (2)
variance-stabilized gradient updates, and (3) dynamic gradient mixing" (section 1), and does not
define the third. The reading here is Nesterov's look-ahead with a weight that each layer earns: the
numerator :math:`m_t` becomes

.. math:: (1 - w_t)\, m_t + w_t\, g_t, \qquad w_t = \kappa \max(0, \cos(g_t, m_{t-1})).

Where the gradient agrees with the momentum it is trusted more; where it does not, momentum decides.
"""

from typing import Any

import jax
import jax.numpy as jnp

from optax_strat import _strata


def agreement(gradients: Any, mu: Any, strata: _strata.Strata) -> jax.Array:
    """The cosine between gradient and momentum of each stratum, at least 0, of shape (strata,)."""
    inner = strata.sums(_strata.inner_products(gradients, mu, strata.leaves))
    lengths = strata.norms(gradients) * strata.norms(mu)
    return jnp.where(lengths > 0, jnp.maximum(inner, 0.0) / jnp.maximum(lengths, 1e-30), 0.0)
