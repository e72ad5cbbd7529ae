"""Dataclasses to strict JSON values and back, each field checked against its type.

Non-finite numbers, which JSON does not know, become the strings "NaN", "Infinity" and "-Infinity",
so that any JSON reader takes what we write.
"""

import dataclasses
import functools
import math
import types
import typing
from typing import Any

_NOT_FINITE = ("NaN", "Infinity", "-Infinity")


def to_json(value: Any) -> Any:
    """The value as what ``json.dumps(..., allow_nan=False)`` takes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_json(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def from_json(value: Any, hint: Any, where: str) -> Any:
    """The JSON value as the type that ``hint`` names; fields that the type lacks are passed over.

    Args:
        value: what ``json.loads`` gave.
        hint: a dataclass, ``dict[str, X]``, ``X | None``, ``str``, ``float``, ``int``, ``bool``, or
            ``Any``, which takes what JSON holds.
        where: the value's name for the message.

    Raises:
        ValueError: the value is not of that type, or a field without a default is missing.
    """
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return _dataclass_from_json(value, hint, where)
    if typing.get_origin(hint) is dict and isinstance(value, dict):
        item_hint = typing.get_args(hint)[1]
        return {
            from_json(key, str, where): from_json(item, item_hint, f"{where}.{key}")
            for key, item in value.items()
        }
    if isinstance(hint, types.UnionType):
        return None if value is None else from_json(value, typing.get_args(hint)[0], where)
    if hint is float and (type(value) in (int, float) or value in _NOT_FINITE):
        return float(value)
    if hint is str and isinstance(value, str):
        value.encode()  # lone surrogates are legal in JSON, but cannot be written or shown
        return value
    if hint in (int, bool) and type(value) is hint:
        return value
    raise ValueError(f"{where} is {value!r:.80}, which is no {getattr(hint, '__name__', hint)}")


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
