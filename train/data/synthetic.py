"""Made-up text with known statistics, for tests that compare digits.

Every word is followed by one of four words with chances 1/2, 1/4, 1/8 and 1/8, so a perfect model
pays 1.75 bits a word. Only `random.Random.random` is drawn from, whose sequence Python promises to
keep: the text is the same on every version and machine.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator

from train.data.documents import Document, Source
from train.data.errors import DataError

_DOCUMENTS = 512
_WORDS_PER_DOCUMENT = 96
_VOCABULARY = 64
_CHANCES = (0.5, 0.75, 0.875, 1.0)  # Cumulative, of the four followers of a word.


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """`synthetic` or `synthetic:SEED`: 512 documents of 96 words each."""

    seed: int = 0

    @classmethod
    def from_spec(cls, argument: str) -> Synthetic:
        """Reads the part of `synthetic:SEED` after the colon."""
        if argument and not argument.isdecimal():
            raise DataError(f"'synthetic:{argument}' needs a whole number as its seed, or none.")
        return cls(int(argument or 0))

    def identity(self) -> list[object]:
        """The seed says it all."""
        return ["synthetic", self.seed]

    def parts(self) -> list[Source]:
        """One."""
        return [self]

    def documents(self) -> Iterator[Document]:
        """Yields sentences of a random first-order language."""
        draw = random.Random(self.seed).random
        words = [_word(draw) for _ in range(_VOCABULARY)]
        followers = [[int(draw() * _VOCABULARY) for _ in _CHANCES] for _ in words]
        for index in range(_DOCUMENTS):
            current = int(draw() * _VOCABULARY)
            chosen = []
            for _ in range(_WORDS_PER_DOCUMENT):
                chosen.append(words[current])
                chance = draw()
                rank = next(i for i, limit in enumerate(_CHANCES) if chance < limit)
                current = followers[current][rank]
            yield Document(f"synthetic {index}", " ".join(chosen) + ".\n")


def _word(draw: Callable[[], float]) -> str:
    syllables = 1 + int(draw() * 3)
    return "".join(
        "bdfgklmnprstvz"[int(draw() * 14)] + "aeiou"[int(draw() * 5)] for _ in range(syllables)
    )
