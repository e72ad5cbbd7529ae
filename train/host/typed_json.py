"""Dataclasses to strict JSON values and back, each field checked against its type.

Non-finite numbers, which JSON does not know, become the strings "NaN", "Infinity" and "-Infinity",
so that any JSON reader takes what we write.
"""

import dataclasses
import functools
import json
import math
import sys
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


def from_json(value: Any, hint: Any, where: str, *, exact: bool = False) -> Any:
    """The JSON value as the type that ``hint`` names.

    Args:
      value: What ``json.loads`` gave.
      hint: A dataclass, a union of dataclasses told apart by ``kind``, ``dict[str, X]``, ``tuple``,
        ``X | None``, ``Literal``, ``str``, ``float``, ``int``, ``bool``, or ``Any``, which takes
        what `to_json` can write again.
      where: The value's name for the message.
      exact: Whether an object must be of its dataclass's ``kind``, without other fields; otherwise
        fields that the dataclass lacks are passed over.

    Raises:
      ValueError: If the value is not of that type, or a field without a default is missing.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        _check_plain(value, where, _DEEPEST)
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return _dataclass_from_json(value, hint, where, exact)
    if origin is dict and isinstance(value, dict):
        return {
            from_json(key, str, where): from_json(
                item, arguments[1], within(where, key), exact=exact
            )
            for key, item in value.items()
        }
    if origin is tuple and isinstance(value, list):
        hints = arguments
        if arguments[-1] is Ellipsis:
            hints = (arguments[0],) * len(value)
        if len(hints) != len(value):
            raise ValueError(f"{where} has {len(value)} items, and must have {len(hints)}")
        return tuple(
            from_json(item, item_hint, f"{where}[{index}]", exact=exact)
            for index, (item, item_hint) in enumerate(zip(value, hints, strict=True))
        )
    if origin in (types.UnionType, typing.Union):
        return _union_from_json(value, arguments, where, exact)
    if origin is typing.Literal:
        if not any(value == choice and type(value) is type(choice) for choice in arguments):
            allowed = ", ".join(map(repr, arguments))
            raise ValueError(f"{where} is {value!r:.80}, and must be one of {allowed}")
        return value
    if hint is float and type(value) is int:
        if abs(value) > sys.float_info.max:
            raise ValueError(f"{where} is too large a number")
        return value  # As it was written: a hash of it must not change.
    if hint is float and (type(value) is float or value in _NOT_FINITE):
        return float(value)
    if hint is str and isinstance(value, str):
        _check_text(value, where)
        return value
    if hint in (int, bool) and type(value) is hint:
        return value
    raise ValueError(f"{where} is {value!r:.80}, which is no {getattr(hint, '__name__', hint)}")


def _union_from_json(value: Any, hints: tuple[Any, ...], where: str, exact: bool) -> Any:
    if value is None and types.NoneType in hints:
        return None
    kinds = {hint.__name__: hint for hint in hints if isinstance(hint, type)}
    others = [hint for hint in hints if hint is not types.NoneType]
    if len(others) == 1:
        return from_json(value, others[0], where, exact=exact)
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"{where} is of kind {kind!r:.80}, and must be of {', '.join(kinds)}")
    return from_json(value, kinds[kind], where, exact=exact)


def read_json(path: Path, hint: Any) -> Any:
    """The JSON value of a file as `from_json` gives it.

    Raises:
      OSError: If the file cannot be read.
      ValueError: If it holds no such value; the message names it.
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


def _dataclass_from_json(value: dict[str, Any], cls: type, where: str, exact: bool) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if exact and value.get("kind") != cls.__name__:
        kind = value.get("kind")
        raise ValueError(f"{where} is of kind {kind!r:.80}, and must be of {cls.__name__}")
    for name in sorted(value.keys() - fields.keys() - {"kind"}) if exact else ():
        raise ValueError(f"{where} has a field {name!r:.80}, which {cls.__name__} has not")
    known = {}
    for name, field in fields.items():
        if name in value:
            known[name] = from_json(value[name], _hints(cls)[name], f"{where}.{name}", exact=exact)
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where} has no field {name!r}")
    return cls(**known)
