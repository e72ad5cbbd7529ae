"""Numbers as people read them (2.1M tokens, 18.7 GB), and foreign text made safe to print."""

from __future__ import annotations

import math
import re

from rich.text import Text

MISSING = "—"


def _scaled(value: float, base: tuple[tuple[float, str], ...]) -> str:
    # The factor makes 999,600 "1M" and not "1e+03k": it would be rounded up to the next unit.
    size, suffix = next((unit for unit in base if abs(value) >= 0.9995 * unit[0]), (1.0, ""))
    return f"{value / size:.3g}{suffix}"


def count(value: float) -> str:
    """A number of tokens, parameters or operations: ``2.1M``."""
    return _scaled(
        value, ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
    )


def size(value: float) -> str:
    """A number of bytes, 1 GB being 10^9 bytes: ``18.7 GB``."""
    return _scaled(value, ((1e12, " TB"), (1e9, " GB"), (1e6, " MB"), (1e3, " kB"), (1.0, " B")))


def duration(seconds: float) -> str:
    """A time: ``87.0 s``, ``3.2 min``, ``19.8 h``."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def number(value: float, digits: int, *, sign: bool = False) -> str:
    """A number with a fixed count of decimals and a true minus sign, or a dash when not finite."""
    if not math.isfinite(value):
        return MISSING
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def plural(n: int, word: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def listing(words: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``; words with commas, ``a, b; c; and d``.

    Example:
        >>> listing(["AdamW", "AdamW, no clip", "Lion"])
        'AdamW; AdamW, no clip; and Lion'
    """
    if len(words) > 2 and any("," in word for word in words):
        return "; ".join([*words[:-1], f"and {words[-1]}"])
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def plain(text: str, style: str = "") -> Text:
    """The text as it is, with a sign in the place of each control character but a newline.

    Example:
      >>> print(plain("[red] \\x1b[31mred"))
      [red] �[31mred
    """
    return Text(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text), style=style)
