"""What an optimizer's state tells: its parts by type, the loss scale, and how many steps failed.

States are found by type and never by position, so that any chain, partition, mask or
``optax.MultiSteps`` may lie around them.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from optax_strat._guard import SkipNonfiniteState
from optax_strat._loss_scale import DynamicLossScaleState

State = TypeVar("State")


def find_states(opt_state: optax.OptState, kind: type[State]) -> list[State]:
    """All states of one type in an optimizer state, in the order of the tree.

    Chains, partitions, masks, ``optax.MultiSteps`` and ``optax.inject_hyperparams`` may lie around
    them; a state inside another of the same type is not looked for. ``flax.nnx.state`` makes
    mappings of states: one with a state's fields counts as that state.

    Args:
      opt_state: the state of any optimizer.
      kind: the class of the states, such as :class:`ScaleByStratoptState`.

    Returns:
      The states, which may be none.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_strat import ScaleByStratoptState, find_states, stratopt
      >>> state = stratopt(0.1, nonfinite='skip').init(jnp.ones(3))
      >>> (inner,) = find_states(state, ScaleByStratoptState)
      >>> inner.alpha
      Array([1.], dtype=float32)
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    found = jax.tree.leaves(opt_state, is_leaf=lambda node: _kind_of(node, kinds) is not None)
    return [
        node if isinstance(node, mine) else _from_mapping(node, mine)
        for node in found
        if (mine := _kind_of(node, kinds)) is not None
    ]


def _kind_of(node: Any, kinds: tuple[Any, ...]) -> Any:
    """Which of the types a node is of, as itself or as a mapping."""
    for kind in kinds:
        if isinstance(node, kind) or (isinstance(node, Mapping) and _is_mapping_of(node, kind)):
            return kind
    return None


def _is_mapping_of(node: Mapping[Any, Any], kind: Any) -> bool:
    """Whether a mapping has the fields of a type; those without any array are left out of it."""
    names, fields = set(node), getattr(kind, "__annotations__", {})
    always = {name for name, annotation in fields.items() if annotation is jax.Array}
    return always <= names <= set(fields) and bool(names - {"inner_state"})


def _from_mapping(node: Mapping[Any, Any], kind: Any) -> Any:
    return kind(**{name: _unwrapped(node[name]) if name in node else None for name in kind._fields})


def _unwrapped(node: Any) -> Any:
    """A tree of mappings with arrays for the variables that hold them."""
    if isinstance(node, Mapping):
        return {name: _unwrapped(value) for name, value in node.items()}
    leaves = jax.tree.leaves(node)
    return leaves[0] if len(leaves) == 1 else node


def find_one(opt_state: Any, kind: type[State], maker: str) -> State:
    """The only state of one type in an optimizer state, made by the named function."""
    found = find_states(opt_state, kind)
    if len(found) != 1:
        raise ValueError(
            f"Expected one {maker}(...) in this optimizer state, but found {len(found)}."
        )
    return found[0]


def loss_scale(opt_state: optax.OptState) -> jax.Array:
    """Reads what to multiply the loss by, wherever :func:`dynamic_loss_scale` sits in a state.

    Works inside ``jax.jit``. Multiply where the loss is float32 already: scaled in float16 it would
    overflow itself.

    Args:
      opt_state: the state of an optimizer that contains :func:`dynamic_loss_scale`.

    Returns:
      A float32 scalar.

    Raises:
      ValueError: the state contains none, or several.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from optax_strat import dynamic_loss_scale, loss_scale
      >>> loss_scale(dynamic_loss_scale(optax.sgd(0.1)).init(jnp.ones(2)))
      Array(32768., dtype=float32)
    """
    return find_one(opt_state, DynamicLossScaleState, "dynamic_loss_scale").scale


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
    guards = find_states(opt_state, SkipNonfiniteState)
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
    for state in find_states(opt_state, kinds):
        match state:
            case DynamicLossScaleState(skipped_at_minimum=run, inner_state=guard):
                yield int(run), int(guard.max_consecutive), " at the lowest loss scale"
            case SkipNonfiniteState(consecutive=run, max_consecutive=limit):
                yield int(run), int(limit), ""
