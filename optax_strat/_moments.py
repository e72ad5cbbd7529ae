"""The two moments that StratOpt and Aardvark share with Adam, and their numerical rules.

Whatever the parameters are, the arithmetic is in float32 (float64 for float64 parameters) and the
second moment is stored so: in bfloat16, 0.999 times a number is that number, and it never decays.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def zero_mu(params: Any, mu_dtype: Any) -> Any:
    """First moments of zero, like the parameters (also sharded like them), in ``mu_dtype``.

    Those of complex parameters stay complex, whatever ``mu_dtype`` is.
    """
    return jax.tree.map(
        lambda p: jnp.zeros_like(p, dtype=None if jnp.iscomplexobj(p) else mu_dtype), params
    )


def zero_nu(params: Any) -> Any:
    """Second moments of zero: real, and at least float32."""
    return jax.tree.map(lambda p: jnp.zeros_like(p, dtype=_real_wide(p)), params)


def update_moments(
    g: jax.Array,
    mu: jax.Array,
    nu: jax.Array,
    b1: Any,
    b2: Any,
    *,
    centred: bool = False,
    accept: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """One step of both moving averages, without bias correction (Aardvark, eqs. 4 and 5).

    Where ``accept`` is false the moments stay as they are. The choice is made here and not on the
    finished state, so that the direction reads the moments that are written: XLA then updates them
    in place, where it would else compute them twice and copy.
    """
    old = mu.astype(g.dtype)
    m = b1 * old + (1 - b1) * g
    deviation = g - m if centred else g
    # Not (1 - b2) * (g * g): XLA would share g * g with the norms, and write it down to do so.
    v = b2 * nu + ((1 - b2) * deviation * jnp.conj(deviation)).real
    return keep(accept, m, old), keep(accept, v, nu)


def keep(accept: Any, new: jax.Array, old: jax.Array) -> jax.Array:
    """The new value where the step is accepted (or nobody asks), the old one where it is not."""
    return new if accept is None else jnp.where(accept, new, old)


def corrections(count: jax.Array, b1: Any, b2: Any) -> tuple[jax.Array, jax.Array]:
    """The factors 1 / (1 - b^t) of both moments' bias corrections (Aardvark, eqs. 6 and 7)."""
    return 1 / (1 - b1**count), 1 / (1 - b2**count)


def one_pass(
    step: Callable[..., tuple[jax.Array, jax.Array, jax.Array]],
    updates: Any,
    mu: Any,
    nu: Any,
    *per_leaf: Sequence[Any],
) -> tuple[Any, Any, Any]:
    """Maps ``step`` over gradients and moments once, for directions and new moments.

    Args:
      step: from a gradient in at least float32, its moments as stored and its ``per_leaf`` values
        to the direction and the new moments, in any precision.
      updates: the gradients.
      mu: the first moments.
      nu: the second moments.
      *per_leaf: further sequences in the order of the gradients' leaves.

    Returns:
      The directions like the gradients, and the moments in the dtypes that they are stored in.
    """
    gradients, treedef = jax.tree.flatten(updates)
    mus, mu_treedef = jax.tree.flatten(mu)
    nus, nu_treedef = jax.tree.flatten(nu)
    stepped = []
    for g, m, v, *rest in zip(gradients, mus, nus, *per_leaf, strict=True):
        g = jnp.asarray(g)
        direction, new_m, new_v = step(g.astype(_wide(g)), m, v, *rest)
        stepped.append((direction.astype(g.dtype), new_m.astype(m.dtype), new_v.astype(v.dtype)))
    directions, new_mus, new_nus = zip(*stepped, strict=True) if stepped else ((), (), ())
    return (
        jax.tree.unflatten(treedef, directions),
        jax.tree.unflatten(mu_treedef, new_mus),
        jax.tree.unflatten(nu_treedef, new_nus),
    )


def _wide(x: Any) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)


def _real_wide(x: Any) -> Any:
    return jnp.promote_types(jnp.finfo(jnp.result_type(x)).dtype, jnp.float32)
