"""The two moments that StratOpt and Aardvark share with Adam, and their numerical rules.

Whatever the parameters and the moments are kept in, the arithmetic is in float32 (float64 for
float64 parameters).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from optax_strat import _checks, _second_moments
from optax_strat._second_moments import keep


def zero_mu(params: Any, mu_dtype: Any) -> Any:
    """First moments of zero, like the parameters (also sharded like them), in ``mu_dtype``."""
    _checks.check_parameters(params)
    return jax.tree.map(lambda p: jnp.zeros_like(p, dtype=mu_dtype), params)


def check_mu(mu: Any, b1: ArrayLike, updates: Any) -> None:
    """Raises ValueError for a state with a first moment where b1=0 keeps none, or the reverse."""
    if not jax.tree.leaves(updates):
        return
    if (mu is not None) != keeps_mu(b1):
        here, there = ("no ", "one") if mu is None else ("a ", "none")
        raise ValueError(
            f"the state has {here}first moment, but with b1={b1!r} there is {there}: init and "
            "update must have the same b1 (b1=0, as a number, keeps no first moment)."
        )


def keeps_mu(b1: ArrayLike) -> bool:
    """Whether a first moment is kept: unless b1 is known to be 0, which no tracer is."""
    return not (_checks.is_number(b1) and b1 == 0)


def widened(mu: jax.Array, g: jax.Array) -> jax.Array:
    """A first moment in the dtype that its gradient is reckoned in."""
    if jnp.iscomplexobj(mu) and not jnp.iscomplexobj(g):
        mu = mu.real  # of a real gradient all is real
    return mu.astype(g.dtype)


def update_moments(
    g: jax.Array,
    mu: jax.Array | None,
    nu: Any,
    seed: jax.Array,
    b1: ArrayLike,
    b2: ArrayLike,
    *,
    centred: bool = False,
    accept: Any = None,
) -> tuple[jax.Array | None, Any]:
    """One step of both moving averages, without bias correction (Aardvark, eqs. 4 and 5).

    Where ``accept`` is false the moments stay as they are. That choice, and the rounding to the
    dtypes that they are kept in, are made here and not on the finished state, so that the direction
    reads the moments that are written: XLA then updates them in place, where it would else compute
    them twice and copy.

    Args:
      g: the gradient, in at least float32.
      mu: the first moment; None where none is kept.
      nu: the second moment, kept in any way of :mod:`optax_strat._second_moments`.
      seed: for its stochastic rounding.
      b1: decay of the first moment.
      b2: decay of the second moment.
      centred: whether squares are those of ``g - m``.
      accept: whether the step is taken.

    Returns:
      Both moments, as they are kept.
    """
    if mu is None:
        v = _second_moments.accumulate(nu, g, b2, accept)
        return None, _second_moments.store(v, nu, seed)
    old = widened(mu, g)
    m = b1 * old + (1 - b1) * g
    v = _second_moments.accumulate(nu, g - m if centred else g, b2, accept)
    return keep(accept, m, old).astype(mu.dtype), _second_moments.store(v, nu, seed)


def corrections(count: jax.Array, b1: ArrayLike, b2: ArrayLike) -> tuple[Any, Any]:
    """The factors 1 / (1 - b^t) of both moments' bias corrections (Aardvark, eqs. 6 and 7)."""
    return 1 / (1 - b1**count), 1 / (1 - b2**count)


def one_pass(
    step: Callable[..., tuple[jax.Array, jax.Array | None, Any]],
    updates: Any,
    mu: Any,
    nu: Any,
    count: jax.Array,
    *per_leaf: Sequence[Any],
) -> tuple[Any, Any, Any]:
    """Maps ``step`` over gradients and moments once, for directions and new moments.

    Args:
      step: from a gradient in at least float32, its moments, a seed for their rounding, and its
        ``per_leaf`` values to the direction, in any precision, and the new moments as they are
        kept.
      updates: the gradients.
      mu: the first moments; None where none are kept.
      nu: the second moments, kept in any way of :mod:`optax_strat._second_moments`.
      count: the number of the step.
      *per_leaf: further sequences in the order of the gradients' leaves.

    Returns:
      The directions like the gradients, and both moments.
    """
    gradients, treedef = jax.tree.flatten(updates)
    mus = [None] * len(gradients) if mu is None else jax.tree.leaves(mu)
    directions, new_mus, new_nus = [], [], []
    leaves = zip(gradients, mus, _second_moments.split(nu), *per_leaf, strict=True)
    for index, (g, m, v, *rest) in enumerate(leaves):
        g = jnp.asarray(g)
        if jnp.iscomplexobj(g) and m is not None and not jnp.iscomplexobj(m):
            raise ValueError(
                f"mu_dtype={m.dtype.name!r} cannot hold the imaginary part of complex gradients; "
                "use mu_dtype=None, or a complex dtype."
            )
        seed = _second_moments.rounding_seed(count, index)
        direction, new_m, new_v = step(g.astype(_wide(g)), m, v, seed, *rest)
        directions.append(direction.astype(g.dtype))
        new_mus.append(new_m)
        new_nus.append(new_v)
    return (
        jax.tree.unflatten(treedef, directions),
        None if mu is None else jax.tree.unflatten(jax.tree.structure(mu), new_mus),
        _second_moments.join(nu, new_nus),
    )


def _wide(x: Any) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)
