"""The groups of :func:`stratify`: what a group holds, which parameters it takes, and its sign.

A parameter belongs to the group of the first key that matches it. Groups must hold directions,
which point along the gradient as those of ``optax.scale_by_adam()`` do, and not whole optimizers
such as ``optax.adam(0.1)``, whose updates point against it: times minus a learning rate, they would
climb. Both have the same type, so each transformation is tried on a small matrix.
"""

import contextlib
import dataclasses
import itertools
import re
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from optax_strat import _checks, _layer_types, _layers, _paths
from optax_strat._layer_types import LayerType
from optax_strat._layers import Layers


@dataclasses.dataclass(frozen=True)
class Group:
    """What :func:`stratify` does with one group of parameters.

    Examples:
      >>> import optax
      >>> from optax_strat import Group
      >>> head = Group(optax.scale_by_adam(), rate=0.5, weight_decay=0.0)
      >>> backbone = Group(frozen=True)
    """

    transform: optax.GradientTransformation | None = None
    """A direction, such as ``optax.scale_by_adam()``; None leaves updates as they come."""
    rate: ArrayLike = 1.0
    """Multiplies the group's updates and its decay, 0 or above."""
    weight_decay: optax.ScalarOrSchedule | None = None
    """The decay of this group, in place of the ``weight_decay`` of :func:`stratify`; None means
    that one. Either applies only where ``mask`` lets parameters decay, by default to matrices."""
    frozen: bool = False
    """Updates are zero, without state or decay, and gradients count for nothing, NaN or not."""

    def __post_init__(self) -> None:
        if self.transform is not None and not _is_transform(self.transform):
            raise ValueError(
                f"The transform of a Group must be a transformation, not {self.transform!r}; a "
                "number is its rate=."
            )
        _checks.check_not_negative("The rate of a Group", self.rate)
        if self.weight_decay is not None and not callable(self.weight_decay):
            _checks.check_not_negative("The weight_decay of a Group", self.weight_decay)
        plain = self.transform is None and self.weight_decay is None
        if self.frozen and not (plain and _checks.is_number(self.rate) and self.rate == 1):
            raise ValueError(f"A frozen Group takes nothing else, but this one is {self!r}.")


GroupKey = TypeVar("GroupKey", bound=Sequence[str])
"""A name or a tuple of names. A variable, because to a type checker no ``dict[str, ...]`` is a
mapping with keys of a wider type; ``Sequence[str]`` is what it finds for names beside tuples."""

GroupLike: TypeAlias = optax.GradientTransformation | ArrayLike | Group
"""What a group of :func:`stratify` may be; a number is its rate."""


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
    if paths and not _layers.is_a_part(tree):
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


def as_group(name: str, value: GroupLike) -> Group:
    if isinstance(value, Group):
        return value
    if _is_transform(value):
        return Group(value)
    if not (_checks.is_number(value) or hasattr(value, "dtype")):
        raise ValueError(
            f"The group {name!r} of stratify must be a transformation such as "
            f"optax.scale_by_adam(), a number (its rate) or a Group, but it is {value!r}."
        )
    _checks.check_not_negative("The rate of a group of stratify", value)
    return Group(rate=value)


def _is_transform(value: object) -> bool:
    return callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))


def transform_of(group: Group) -> optax.GradientTransformation:
    if group.frozen:
        return optax.set_to_zero()
    return optax.identity() if group.transform is None else group.transform


def may_decay(weight_decay: optax.ScalarOrSchedule | None) -> bool:
    """Whether it is known not to be zero; an array may be."""
    return callable(weight_decay) or (_checks.is_number(weight_decay) and weight_decay != 0)


def check_signs(
    groups: Mapping[str, Group], keys: Sequence[Key], has_rate: bool, decays: bool
) -> None:
    """Raises ValueError where whole optimizers stand in the place of directions."""
    signs = {}
    for key in keys:
        group = groups[key.group]
        if group.transform is not None:
            # Called as its group is, for transformations that look at names.
            names = [part for part in key.parts if part in (*LayerType,)] or ["mlp"]
            signs[key.group] = _sign_of(group.transform, names)
        elif not group.frozen:
            signs[key.group] = 1
    descending = next((name for name, sign in signs.items() if sign < 0), None)
    if descending is None:
        return
    whole = f"The group {descending!r} of stratify descends by itself, as a whole optimizer does, "
    way_out = "give it a direction such as optax.scale_by_adam()"
    if has_rate:
        raise ValueError(
            f"{whole}and times the learning_rate it would climb: {way_out}, or leave out "
            "learning_rate."
        )
    other = next((name for name, sign in signs.items() if sign > 0), None)
    if other is not None:
        raise ValueError(
            f"{whole}but {other!r} gives a direction: {way_out} and stratify the learning_rate, or "
            "make all groups whole optimizers."
        )
    if decays:
        raise ValueError(
            f"{whole}so that the weight_decay of stratify would make parameters grow: {way_out} "
            "and stratify the learning_rate, or let that optimizer decay."
        )


_STEPS = 4
"""Enough for a warm-up from zero to have begun."""

_MOST_STEPS = 64
"""While all updates are zero: for accumulations, and for schedules that begin with zeros."""

_EXTRA_ARGS: tuple[dict[str, float], ...] = ({"value": 1.0}, {})
"""A loss, for what computes a step size of it; none, for what takes other arguments alone."""

_SHAPE = (8, 8)

_verdicts: weakref.WeakKeyDictionary[Callable[..., Any], int] = weakref.WeakKeyDictionary()
"""Verdicts by update function: ``inject_hyperparams`` builds an optimizer anew at every step."""


def _sign_of(transform: optax.GradientTransformation, names: Iterable[str]) -> int:
    """1 where updates go along the gradient, -1 where they go against it, 0 where nothing tells.

    Args:
      transform: the transformation to try, on one small matrix for a few steps.
      names: what the matrix may be called, for transformations that look at names.
    """
    try:
        known = _verdicts.get(transform.update)
    except TypeError:  # not every callable can be a key
        return _first_verdict(transform, names)
    if known is None:
        known = _first_verdict(transform, names)
        with contextlib.suppress(TypeError):  # nor can all be referred to weakly
            _verdicts[transform.update] = known
    return known


def _first_verdict(transform: optax.GradientTransformation, names: Iterable[str]) -> int:
    for name, extra_args in itertools.product(names, _EXTRA_ARGS):
        try:
            return _try(transform, name, extra_args)
        # Whatever it needs and does not get (an extra argument, names of its own, a tracer from
        # the function around, a backend): this is a courtesy, and no reason to refuse it.
        except Exception:
            continue
    return 0


def _try(transform: optax.GradientTransformation, name: str, extra_args: dict[str, float]) -> int:
    transform = optax.with_extra_args_support(transform)
    # Without jit, loops are Python's and run operations that are compiled once in a process; a
    # program for each transformation would take JAX longer, and Newton-Schulz seconds.
    with jax.ensure_compile_time_eval(), jax.disable_jit():
        gradient = np.random.default_rng(0).normal(size=_SHAPE)
        gradients = {name: {"kernel": jnp.asarray(gradient, jnp.float32)}}
        # Small, so that a decay in it does not decide; not zero, for trust ratios.
        params = {name: {"kernel": jnp.full(_SHAPE, 1e-3, jnp.float32)}}
        state = transform.init(params)
        total = np.zeros(_SHAPE)
        for step in range(_MOST_STEPS):
            if step >= _STEPS and total.any():
                break
            updates, state = transform.update(gradients, state, params, **extra_args)
            total += np.asarray(updates[name]["kernel"], np.float64)
        along = np.sum(total * gradient)
        size = np.linalg.norm(total) * np.linalg.norm(gradient)
    # Noise in the updates turns them a little either way, by about 1/8 in 64 dimensions.
    return int(np.sign(along)) if abs(along) > 0.3 * size else 0
