"""Paths of parameters as tuples of names, whatever library the parameters come from."""

import functools
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import jax
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey


def segments(path: tuple[Any, ...]) -> tuple[str, ...]:
    """Splits a JAX key path into names and decimal indices, in the case that they have.

    The same parameter gets the same segments in every dress that it wears: the ``.value`` by which
    NNX variables and Linen boxes hold their array is dropped (it is there at ``init`` and may be
    gone at ``update``), but only as the last attribute, because modules may be called ``value``
    too. Haiku's ``'transformer/~/linear_0'``, Hugging Face's ``'model.layers.0.mlp'`` and the
    tuples of ``flax.traverse_util.flatten_dict`` are one key each, and several segments.
    """
    if path and path[-1] == GetAttrKey("value"):
        path = path[:-1]
    return tuple(
        name
        for key in path
        for text in _key_texts(key)
        for name in text.replace(".", "/").split("/")
        if name and name != "~"
    )


def is_index(segment: str) -> bool:
    """Whether a segment is a position in a list and not a name."""
    return segment.isdecimal()


def named_leaves(tree: Any) -> list[tuple[tuple[str, ...], Any]]:
    """The leaves of a tree in JAX's order, each with its segments."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(segments(path), leaf) for path, leaf in flat]


@functools.lru_cache(maxsize=2**12)  # Rules are asked for every leaf.
def expression(pattern: str) -> re.Pattern[str]:
    """The expression that finds a rule's pattern as whole segments of a path, joined by slashes."""
    return re.compile(rf"(?:^|/)(?:{pattern})(?=/|$)", re.IGNORECASE)


def fold(names: Sequence[str], kinds: Iterable[Hashable]) -> list[tuple[str, list[int]]]:
    """Joins names that differ in numbers alone, such as those of an unstacked model's layers.

    Args:
      names: paths.
      kinds: what else has to be equal for two names to be joined, one for each.

    Returns:
      Names such as ``'layers/0..11/mlp/experts/0..7/up'``, each with the positions of its members.

    Examples:
      >>> fold(['h/0/up', 'h/1/up', 'h/2/up', 'ln_1'], 'aaba')
      [('h/0..1/up', [0, 1]), ('h/2/up', [2]), ('ln_1', [3])]
    """
    # Every second part of a split name is a number.
    rows = [
        (tuple(re.split(r"(\d+)", name)), kind, [position])
        for position, (name, kind) in enumerate(zip(names, kinds, strict=True))
    ]
    # The innermost numbers go first, so that layers are joined whose experts already are.
    for place in reversed(range(1, max((len(parts) for parts, _, _ in rows), default=0), 2)):
        alike: dict[Any, tuple[list[str], list[int]]] = {}
        for parts, kind, members in rows:
            key = (parts[:place], parts[place + 1 :], kind)
            numbers, joined = alike.setdefault(key, ([], []))
            numbers.extend(parts[place : place + 1])
            joined.extend(members)
        rows = [
            ((*before, *_ranges(numbers), *after), kind, joined)
            for (before, after, kind), (numbers, joined) in alike.items()
        ]
    return [("".join(parts), members) for parts, _, members in rows]


def _ranges(numbers: list[str]) -> list[str]:
    """Numbers as one text, with successive ones as a range; nothing for none."""
    if len(numbers) <= 1:
        return numbers
    runs: list[list[int]] = []
    for number in sorted({int(number) for number in numbers}):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [",".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)]


def _key_texts(key: Any) -> Iterator[str]:
    match key:
        case DictKey(key=tuple(names)) | FlattenedIndexKey(key=tuple(names)):
            yield from map(str, names)
        case DictKey(key=name) | FlattenedIndexKey(key=name) | GetAttrKey(name=name):
            yield str(name)
        case SequenceKey(idx=index):
            yield str(index)
        case _:  # a key type of a pytree library of its own
            yield str(key)
