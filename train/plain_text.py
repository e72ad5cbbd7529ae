"""What files and names say, in a terminal: never as markup, nor as codes that would rewrite it."""

from __future__ import annotations

import re

from rich.text import Text

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def plain(text: str, style: str = "") -> Text:
    """The text as it is, with a sign in the place of each control character but a newline.

    Example:
      >>> print(plain("[red] \\x1b[31mred"))
      [red] �[31mred
    """
    return Text(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text), style=style)
