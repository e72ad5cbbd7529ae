"""How many steps were skipped, read on the host, and an error once it is too many."""

from typing import Any, NamedTuple

from optax_strat import _states
from optax_strat._guard import SkipNonfiniteState


class SkipCounts(NamedTuple):
    """How many steps were skipped."""

    total: int
    consecutive: int


class NonfiniteError(RuntimeError):
    """Too many steps in a row had gradients that were not finite."""


def skip_counts(opt_state: Any) -> SkipCounts:
    """Reads how many steps were skipped out of any optimizer state, wherever the guard sits in it.

    Args:
      opt_state: the state of an optimizer that contains :func:`skip_nonfinite`, on device or host.

    Returns:
      The counts; of several guards, the sum of the totals and the largest run.

    Raises:
      ValueError: the state contains no guard.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_strat import aardvark, skip_counts
      >>> skip_counts(aardvark(0.1).init(jnp.ones(3)))
      SkipCounts(total=0, consecutive=0)
    """
    guards = _guards(opt_state)
    return SkipCounts(
        total=sum(int(guard.total) for guard in guards),
        consecutive=max(int(guard.consecutive) for guard in guards),
    )


def raise_if_stuck(opt_state: Any) -> SkipCounts:
    """Raises once the guard has skipped its ``max_consecutive`` steps in a row.

    Call it from the host, outside ``jax.jit``, as often as the loop fetches its metrics.

    Args:
      opt_state: the state of an optimizer that contains :func:`skip_nonfinite`.

    Returns:
      The counts, as from :func:`skip_counts`.

    Raises:
      NonfiniteError: that many steps in a row, or more, were skipped.
      ValueError: the state contains no guard.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from optax_strat import NonfiniteError, raise_if_stuck, skip_nonfinite
      >>> tx = skip_nonfinite(optax.sgd(0.1), max_consecutive=2)
      >>> state = tx.init(jnp.array(1.0))
      >>> try:
      ...     while True:
      ...         _, state = tx.update(jnp.array(jnp.nan), state)
      ...         print(raise_if_stuck(state))
      ... except NonfiniteError as error:
      ...     print(str(error).split(',')[0])
      SkipCounts(total=1, consecutive=1)
      Gradients that are not finite: 2 steps in a row
    """
    counts = skip_counts(opt_state)
    limit = min(int(guard.max_consecutive) for guard in _guards(opt_state))
    if counts.consecutive >= limit:
        raise NonfiniteError(
            f"Gradients that are not finite: {counts.consecutive} steps in a row, {counts.total} "
            f"in all, and the limit is {limit} in a row. They changed no parameter. Lower the "
            "learning rate or the loss scale, or look for the first NaN with jax_debug_nans."
        )
    return counts


def _guards(opt_state: Any) -> list[SkipNonfiniteState]:
    guards = _states.find_states(opt_state, SkipNonfiniteState)
    if not guards:
        raise ValueError(
            "This optimizer state contains no guard; wrap the optimizer in skip_nonfinite(...)."
        )
    return guards
