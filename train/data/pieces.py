"""A text in pieces, each of which is encoded by itself.

So one book keeps all cores busy, and a document of 100 MB needs little memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_PIECE = 32 << 10  # Characters.
_WORD_END = re.compile(r"\S(?=\s)")


def cut(text: str, forged: str | None = None) -> Iterator[str]:
    """Cuts a long text before a space that follows a word, where a byte-level token begins anyway.

    Args:
      text: The tokens of its pieces are those that it has as a whole.
      forged: What the tokenizer would take for an end of a document, wherever it is written: that
        is cut after its first letter.
    """
    if forged and forged in text:
        first, *others = text.split(forged)
        for other in others:
            yield from cut(first + forged[0])
            first = forged[1:] + other
        text = first
    start = 0
    while len(text) - start > _PIECE:
        furthest = start + 2 * _PIECE
        word_end = _WORD_END.search(text, start + _PIECE - 1, furthest)
        end = word_end.end() if word_end else min(furthest, len(text))
        yield text[start:end]
        start = end
    yield text[start:]
