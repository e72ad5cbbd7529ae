"""Finding a transformation's state in an optimizer's, by type and never by position."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import optax

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
