"""Paths of parameters as tuples of names, whatever library the parameters come from."""

from typing import Any

import jax
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey


def segments(path: tuple[Any, ...]) -> tuple[str, ...]:
    """Splits a JAX key path into lower-case names and decimal indices.

    The same parameter gets the same segments in every dress that it wears: the ``.value`` by which
    NNX variables and Linen boxes hold their array is dropped (it is there at ``init`` and may be
    gone at ``update``), but only as the last attribute, because modules may be called ``value``
    too. Haiku's ``'transformer/~/linear_0'`` and Hugging Face's ``'model.layers.0.mlp'`` are one
    key each, and several segments.
    """
    if path and path[-1] == GetAttrKey("value"):
        path = path[:-1]
    names: list[str] = []
    for key in path:
        names.extend(part for part in _key_text(key).replace(".", "/").split("/") if part != "~")
    return tuple(name.lower() for name in names if name)


def is_index(segment: str) -> bool:
    """Whether a segment is a position in a list and not a name."""
    return segment.isdecimal()


def named_leaves(tree: Any) -> list[tuple[tuple[str, ...], Any]]:
    """The leaves of a tree in JAX's order, each with its segments."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(segments(path), leaf) for path, leaf in flat]


def _key_text(key: Any) -> str:
    match key:
        case DictKey(key=name) | FlattenedIndexKey(key=name) | GetAttrKey(name=name):
            return str(name)
        case SequenceKey(idx=index):
            return str(index)
        case _:  # a key type of a pytree library of its own
            return str(key)
