"""Dataclasses to strict JSON values and back, each field checked against its type.

Non-finite numbers, which JSON does not know, become the strings "NaN", "Infinity" and "-Infinity",
so that any JSON reader takes what we write.
"""

import dataclasses
import functools
import json
import math
import types
import typing
from pathlib import Path
from typing import Any

_NOT_FINITE = ("NaN", "Infinity", "-Infinity")
_DEEPEST = 100
"""Levels of lists and objects; Python reads and writes several hundred, but not as many."""


def to_json(value: Any) -> Any:
    """The value as what ``json.dumps(..., allow_nan=False)`` takes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_json(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def from_json(value: Any, hint: Any, where: str) -> Any:
    """The JSON value as the type that ``hint`` names; fields that the type lacks are passed over.

    Args:
        value: what ``json.loads`` gave.
        hint: a dataclass, ``dict[str, X]``, ``tuple[X, ...]``, ``X | None``, ``str``, ``float``,
            ``int``, ``bool``, or ``Any``, which takes what `to_json` can write again.
        where: the value's name for the message.

    Raises:
        ValueError: the value is not of that type, or a field without a default is missing.
    """
    if hint is Any:
        _check_plain(value, where, _DEEPEST)
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return _dataclass_from_json(value, hint, where)
    if typing.get_origin(hint) is dict and isinstance(value, dict):
        item_hint = typing.get_args(hint)[1]
        return {
            from_json(key, str, where): from_json(item, item_hint, within(where, key))
            for key, item in value.items()
        }
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        item_hint = typing.get_args(hint)[0]
        return tuple(
            from_json(item, item_hint, f"{where}[{index}]") for index, item in enumerate(value)
        )
    if isinstance(hint, types.UnionType):
        return None if value is None else from_json(value, typing.get_args(hint)[0], where)
    if hint is float and (type(value) in (int, float) or value in _NOT_FINITE):
        return float(value)
    if hint is str and isinstance(value, str):
        _check_text(value, where)
        return value
    if hint in (int, bool) and type(value) is hint:
        return value
    raise ValueError(f"{where} is {value!r:.80}, which is no {getattr(hint, '__name__', hint)}")


def read_json(path: Path, hint: Any) -> Any:
    """The JSON value of a file as `from_json` gives it.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no such value; the message names it.
    """
    try:
        return from_json(json.loads(path.read_bytes()), hint, "it")
    except (ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path} is damaged ({error}): put it back, or delete it") from None


def within(where: str, key: str) -> str:
    """The name of what a key leads to, on one line whatever the key.

    Example:
        >>> print(within("run", "seed"), within("run", "a\\nb"))
        run.seed run['a\\nb']
    """
    return f"{where}.{key}".strip(".") if key.isidentifier() else f"{where}[{key!r:.80}]"


def _check_plain(value: Any, where: str, levels: int) -> None:
    """Refuses what was read as JSON and cannot be written as it."""
    if isinstance(value, str):
        _check_text(value, where)
    elif isinstance(value, dict | list):
        if not levels:
            raise ValueError(f"{where} has more than {_DEEPEST} lists and objects in each other")
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            _check_plain(item, where, levels - 1)


def _check_text(value: str, where: str) -> None:
    """Refuses lone surrogates, which are legal in JSON but cannot be written or shown."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where} is {value!r:.80}, with surrogates on their own") from None


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _dataclass_from_json(value: dict[str, Any], cls: type, where: str) -> Any:
    known = {}
    for item in dataclasses.fields(cls):
        if item.name in value:
            hint = _hints(cls)[item.name]
            known[item.name] = from_json(value[item.name], hint, f"{where}.{item.name}")
        elif item.default is item.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where} has no field {item.name!r}")
    return cls(**known)
