"""How many steps were skipped, and an error once it is too many."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_strat import _states
from optax_strat._guard import SkipNonfiniteState
from optax_strat._loss_scale import DynamicLossScaleState


class SkipCounts(NamedTuple):
    """How many steps were skipped."""

    total: int
    consecutive: int


class NonfiniteError(RuntimeError):
    """Too many steps in a row had gradients that were not finite."""


def skip_counts(opt_state: optax.OptState) -> SkipCounts:
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
    counts = traced_counts(opt_state)
    if counts is None:
        raise ValueError(
            "This optimizer state contains no guard; wrap the optimizer in skip_nonfinite(...)."
        )
    return SkipCounts(*map(int, counts))


def traced_counts(opt_state: Any) -> tuple[jax.Array, jax.Array] | None:
    """:func:`skip_counts` for the inside of ``jax.jit``; None where there is no guard."""
    guards = _states.find_states(opt_state, SkipNonfiniteState)
    if not guards:
        return None
    return (
        functools.reduce(jnp.add, [guard.total for guard in guards]),
        functools.reduce(jnp.maximum, [guard.consecutive for guard in guards]),
    )


def raise_if_stuck(opt_state: optax.OptState) -> SkipCounts:
    """Raises once the guard has skipped its ``max_consecutive`` steps in a row.

    Call it from the host, outside ``jax.jit``, as often as the loop fetches its metrics. Under
    :func:`dynamic_loss_scale`, which has to skip steps to find its scale, only those count that
    were skipped at the lowest one.

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
    for run, limit, where in _runs(opt_state):
        if run >= limit:
            raise NonfiniteError(
                f"Gradients that are not finite: {run} steps in a row{where}, {counts.total} in "
                f"all, and the limit is {limit} in a row. They changed no parameter. Lower the "
                "learning rate or a fixed loss scale, or look for the first NaN with "
                "jax_debug_nans."
            )
    return counts


def _runs(opt_state: Any) -> Iterator[tuple[int, int, str]]:
    """Of every outermost guard the steps that speak against it, its limit, and where they were."""
    kinds: Any = (DynamicLossScaleState, SkipNonfiniteState)
    for state in _states.find_states(opt_state, kinds):
        match state:
            case DynamicLossScaleState(skipped_at_minimum=run, inner_state=guard):
                yield int(run), int(guard.max_consecutive), " at the lowest loss scale"
            case SkipNonfiniteState(consecutive=run, max_consecutive=limit):
                yield int(run), int(limit), ""
