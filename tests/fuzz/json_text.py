"""Mutations of JSON lines: one value, name or line at a time becomes another."""

from __future__ import annotations

import copy
import functools
import json
import random
from typing import Any

_ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**63, 10**400, -0.0, 1e308, 1e-320, float("nan"), float("inf"),
    "", "0", "NaN", "../x", "/etc/passwd", "a\nb", "\x1b[2J", "\ud800", "x" * 300, [], {}, [[]],
    [float("nan")], {"": {}}, {"a\nb": 1}, {"\udfff": 1},
)  # fmt: skip
"""What readers of JSON tend to stumble over."""


def mutated(content: bytes, seed: int) -> bytes | None:
    """Lines of JSON with one change in one of them; None if there is no JSON in them.

    Args:
      content: A JSON file, or one value a line.
      seed: Which change.
    """
    draw = random.Random(seed)
    try:
        return json.dumps(_changed(json.loads(content), draw)).encode()
    except (ValueError, RecursionError):
        pass  # No single value, but it may be lines of them.
    lines = content.split(b"\n")
    place = draw.randrange(len(lines))
    if draw.random() < 0.2:
        lines.insert(
            draw.randrange(len(lines) + 1), lines.pop(place) if draw.random() < 0.5 else b""
        )
        return b"\n".join(lines)
    try:
        lines[place] = json.dumps(_changed(json.loads(lines[place]), draw)).encode()
    except (ValueError, RecursionError):
        return None
    return b"\n".join(lines)


def _changed(value: Any, draw: random.Random) -> Any:
    """A value of which one part, found by going down at random, is another."""
    if isinstance(value, dict | list) and value and draw.random() < 0.85:
        value = copy.copy(value)
        key = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
        match draw.randrange(8):
            case 0:
                del value[key]
            case 1 if isinstance(value, dict):
                value[draw.choice([str(odd) for odd in _ODD])] = value.pop(key)
            case 2 if isinstance(value, list):
                value.append(value[key])
            case _:
                value[key] = _changed(value[key], draw)
        return value
    match draw.randrange(6):
        case 0 if type(value) is int:
            return value + draw.choice([-1, 1, 2**16])
        case 1 if isinstance(value, str):
            return value + draw.choice(["\n", "\u202e", "'", "0"])
        case 2:
            return [value]
        case 3:
            return functools.reduce(
                lambda inner, _: [inner], range(draw.choice([3, 400, 900])), value
            )
        case _:
            return draw.choice(_ODD)
