"""Finding a transformation's state in an optimizer's, by type and never by position."""

from typing import Any, TypeVar

import jax

State = TypeVar("State")


def find_states(opt_state: Any, kind: type[State]) -> list[State]:
    """All states of one type in an optimizer state, in the order of the tree.

    Chains, partitions, masks, ``optax.MultiSteps`` and ``optax.inject_hyperparams`` may lie around
    them; a state inside another of the same type is not looked for.

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
    found = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kind))
    return [node for node in found if isinstance(node, kind)]


def find_one(opt_state: Any, kind: type[State], maker: str) -> State:
    """The only state of one type in an optimizer state, made by the named function."""
    found = find_states(opt_state, kind)
    if len(found) != 1:
        raise ValueError(
            f"Expected one {maker}(...) in this optimizer state, but found {len(found)}."
        )
    return found[0]
