"""Which group of :func:`stratify` takes which parameter: that of the first key that matches."""

import dataclasses
import re
from collections.abc import Hashable, Iterable, Sequence

import jax
import optax

from optax_strat import _layer_types, _paths, _unused
from optax_strat._layer_types import LayerType
from optax_strat._layers import Layers


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of the mapping: names of layer types, and patterns over paths."""

    group: str
    """The name of its group."""
    parts: dict[str, re.Pattern[str]]
    """Each name or pattern, with its expression."""

    @property
    def takes_all(self) -> bool:
        """Whether it matches every parameter, as ``'.*'`` does: also one that no model has."""
        return any(pattern.search("\0") for pattern in self.parts.values())

    def takes(self, path: str, label: str, types: Sequence[str]) -> bool:
        """Whether the key matches a parameter."""
        return any(
            part == label if part in types else bool(pattern.search(path))
            for part, pattern in self.parts.items()
        )


def read_keys(keys: Iterable[Hashable]) -> list[Key]:
    """The keys of a mapping to groups; raises ValueError for what is none."""
    read: list[Key] = []
    for given in keys:
        parts = given if isinstance(given, tuple) else (given,)
        if not parts or not all(isinstance(part, str) for part in parts):
            raise ValueError(
                "A key of stratify must be a layer type, a pattern, or a tuple of these, not "
                f"{given!r}."
            )
        patterns: dict[str, re.Pattern[str]] = {}
        for part in map(str, parts):
            if any(part in other for other in (patterns, *(key.parts for key in read))):
                raise ValueError(f"{part!r} stands in two groups of stratify.")
            patterns[part] = _expression(part)
        if read and read[-1].takes_all:
            raise ValueError(
                f"The key {read[-1].group!r} of stratify takes all parameters, so that {part!r} "
                "behind it has none: put it last."
            )
        group = "+".join(patterns)
        if any(group == key.group for key in read):
            raise ValueError(f"Two groups of stratify would be called {group!r}; write one anew.")
        read.append(Key(group, patterns))
    return read


def _expression(part: str) -> re.Pattern[str]:
    try:
        re.compile(part)  # first, for an error at a position in what the user wrote
        return _paths.expression(part)
    except re.error as error:
        reason = error if error.pattern == part else error.msg
        hint = "; all parameters are '.*'" if part == "*" else ""
        raise ValueError(
            f"The key {part!r} of stratify is neither a layer type nor a regular expression: "
            f"{reason}{hint}."
        ) from error


def assign(tree: optax.Params, keys: Sequence[Key], layers: Layers) -> optax.Params:
    """The name of the group of every leaf, in the structure of the tree.

    Raises:
      ValueError: no key matches a parameter, or a pattern has none to take.
    """
    leaves = _paths.named_leaves(tree)
    paths = ["/".join(names) for names, _ in leaves]
    labels = jax.tree.leaves(layers.labels(tree, unmatched="other"))
    known = layers.types()
    # What a function may give is not known: a name that it gives here is a type.
    types = [kind.value for kind in LayerType] + list(labels if known is None else known)
    taken = [
        next((key for key in keys if key.takes(path, label, types)), None)
        for path, label in zip(paths, labels, strict=True)
    ]
    # A pattern may take a parameter that no rule matches; the type `other` only if layers says so.
    unmatched = {
        path: leaf
        for path, (_, leaf), label, key in zip(paths, leaves, labels, taken, strict=True)
        if label == LayerType.other and (key is None or label in key.parts)
    }
    if unmatched and known is not None:
        layers.labels(unmatched)
    uncovered = {
        f"{path} ({label})": label
        for path, label, key in zip(paths, labels, taken, strict=True)
        if key is None
    }
    if uncovered:
        raise ValueError(
            f"stratify has no transformation for these parameters:\n"
            f"  {_layer_types.listed(uncovered)}\n"
            f"Add their types to a group: {', '.join(sorted(set(uncovered.values())))}; or let a "
            "last key '.*' take all others."
        )
    if paths and not _unused.is_a_part(tree):
        for key in keys:
            _check_patterns(key, paths, taken, types)
    return jax.tree.unflatten(
        jax.tree.structure(tree), [key.group for key in taken if key is not None]
    )


def _check_patterns(
    key: Key, paths: Sequence[str], taken: Sequence[Key | None], types: Sequence[str]
) -> None:
    """Raises ValueError where a pattern takes nothing, which is a slip, unless it is `.*`."""
    for part, pattern in key.parts.items():
        if part in types or key.takes_all:
            continue
        matched = [owner for path, owner in zip(paths, taken, strict=True) if pattern.search(path)]
        if not matched:
            first = ", ".join(list(dict.fromkeys(paths))[:3])
            raise ValueError(
                f"The key {part!r} of stratify is no layer type, and as a pattern it matches no "
                f"parameter{_layer_types.suggestion(part, types) or '.'} Paths are such as {first}."
            )
        if key not in matched:
            owner = matched[0].group if matched[0] is not None else ""
            raise ValueError(
                f"The key {part!r} of stratify takes no parameter, because keys in front of it "
                f"take all that it matches, such as {owner!r}: put it before them."
            )
