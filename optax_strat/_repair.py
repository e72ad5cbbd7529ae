"""Gradients with entries that are not finite: repair them, and count such steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_strat import _axes, _checks
from optax_strat._axes import AxisName


class RepairNonfiniteState(NamedTuple):
    """State of :func:`repair_nonfinite`."""

    total: jax.Array
    """Steps whose gradients were repaired so far, int32 of shape ()."""


def repair_nonfinite(*, axis_name: AxisName = None) -> optax.GradientTransformationExtraArgs:
    """Sets every entry of a gradient that is NaN or infinite to zero, and counts such steps.

    ``jax.numpy.nan_to_num`` with all three replacements zero: an infinite entry has no usable size,
    and the largest float in its place would overflow the norms. Put it before everything else.

    Args:
      axis_name: for ``jax.shard_map`` with ``check_vma=False``, where every device would count for
        itself; see :func:`clip_by_layer_norm`.

    Returns:
      The transformation; its state is a :class:`RepairNonfiniteState`.

    Raises:
      ValueError: at ``init``, a parameter is no array of numbers.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_strat import repair_nonfinite
      >>> tx = repair_nonfinite()
      >>> gradient = jnp.array([1.0, jnp.nan, -jnp.inf])
      >>> updates, state = tx.update(gradient, tx.init(gradient))
      >>> updates, int(state.total)
      (Array([1., 0., 0.], dtype=float32), 1)
    """

    def init(params: Any) -> RepairNonfiniteState:
        _checks.check_arrays(params)
        return RepairNonfiniteState(total=jnp.zeros([], jnp.int32))

    def update(
        updates: Any, state: RepairNonfiniteState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, RepairNonfiniteState]:
        del params, extra_args
        leaves = jax.tree.leaves(updates)
        finite = [jnp.all(jnp.isfinite(u)) for u in leaves]
        broken = ~jnp.all(jnp.asarray(finite, bool)) if finite else jnp.asarray(False)
        broken = _axes.anywhere(broken, axis_name, *leaves)
        repaired = jax.tree.map(lambda u: jnp.where(jnp.isfinite(u), u, jnp.zeros_like(u)), updates)
        total = jnp.where(broken, optax.safe_increment(state.total), state.total)
        return repaired, RepairNonfiniteState(total)

    return optax.GradientTransformationExtraArgs(init, update)
