"""What an Optax transformation is made of, in the order in which gradients pass through it.

Optax builds transformations out of closures, so the parts of a finished one and their numbers can
be read off the functions themselves: what is shown is what runs, and not what a table says of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optax

_TRANSPARENT = ("with_extra_args_support", "inferred_update", "_unless_empty")
"""What these make passes everything on to one other transformation."""

_FUNCTIONS = ("mask", "b1", "b2", "b3", "alpha", "weight_decay", "step_size_fn")
"""Settings that may be functions; other functions in a closure are helpers of the code."""


@dataclass(frozen=True)
class Link:
    """One part of a chain."""

    name: str
    """Of the function that made it, such as `scale_by_adam`; of a group, its label."""
    settings: dict[str, float | str]
    """Its numbers and words; a function, such as a schedule, stands as the name of its maker."""
    parts: tuple[Link, ...] = ()
    """The links that it applies, in order."""


def links(transformation: optax.GradientTransformation) -> tuple[Link, ...]:
    """Reads a transformation's parts off its update function.

    Args:
      transformation: Any of Optax's or of ours, or one that is built as they are. One that is built
        otherwise is a single link.

    Returns:
      The links in order; chains within chains are taken apart.

    Example:
      >>> clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
      >>> [(link.name, link.settings) for link in links(clipped)]
      [('clip_by_global_norm', {'max_norm': 1.0}), ('scale', {'step_size': -0.1})]
    """
    return _links(transformation.update)


def _links(update: Callable[..., Any]) -> tuple[Link, ...]:
    name, held = _maker(update), _held(update)
    if name == "identity":
        return ()
    if name == "chain":
        return tuple(link for part in held["update_fns"] for link in _links(part))
    inner = [value for value in held.values() if isinstance(value, optax.GradientTransformation)]
    if name in _TRANSPARENT and len(inner) == 1:
        return links(inner[0])
    groups = [value for value in held.values() if isinstance(value, Mapping)]
    parts = (*(link for part in inner for link in links(part)), *_groups(groups))
    settings = {key: _show(value) for key, value in held.items() if _is_setting(key, value)}
    return (Link(name.strip("_"), settings, tuple(parts)),)


def _groups(mappings: list[Mapping[Any, Any]]) -> list[Link]:
    return [
        Link(str(label), {}, links(part))
        for mapping in mappings
        for label, part in mapping.items()
        if isinstance(part, optax.GradientTransformation)
    ]


def _held(function: Callable[..., Any]) -> Mapping[str, Any]:
    return inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}


def _is_setting(key: str, value: Any) -> bool:
    if callable(value):
        return key in _FUNCTIONS
    return isinstance(value, float | int | str) or (type(value) is tuple and key != "update_fns")


def _show(value: Any) -> float | str:
    if callable(value):
        return _maker(value).strip("_")
    return value if isinstance(value, float | int | str) else str(value)


def _maker(function: Callable[..., Any]) -> str:
    """The outermost function in whose body a closure was made, or its own name."""
    return getattr(function, "__qualname__", type(function).__name__).partition(".")[0]
