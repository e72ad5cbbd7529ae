"""Text that needs no download: prose that every Python brings along, and made-up text for tests.

`stdlib`: the pages of `help('...')` (pydoc's topics, which are the language reference) and the
docstrings of the standard library, about 2 MB. Docstrings are read from the source files with
`ast`; no module but pydoc's own is imported. Pages quote each other and modules repeat each other's
methods, so a paragraph is kept only where it occurs first: nothing in the validation split can be
recited from the training split.

`synthetic`: every word is followed by one of four words with chances 1/2, 1/4, 1/8 and 1/8, so a
perfect model pays 1.75 bits a word. Only `random.Random.random` is drawn from, whose sequence
Python promises to keep: the text is the same on every version and machine.
"""

from __future__ import annotations

import ast
import dataclasses
import platform
import random
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

from train.data.documents import DataError, Document, Source
from train.data.sources.files import open_file

# No prose in English for a reader of Python: the test suite, grammar tables, demos, data.
_SKIPPED_MODULES = {"test", "lib2to3", "turtledemo", "pydoc_data", "__phello__", "__hello__"}
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages"}

# A heading of the language reference: a line, underlined.
_HEADING = re.compile(r"^(?=\S.*\n(?:\*{3,}|={3,}|-{3,})\n)", re.MULTILINE)
_SHORTEST = 64  # Characters; less is a bare heading or a title.
_BLANK_LINES = re.compile(r"\n\s*\n")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclasses.dataclass(frozen=True)
class StandardLibrary:
    """The language reference by sections, then the docstrings of one module file at a time."""

    def identity(self) -> list[object]:
        """The text is the same wherever the same Python is installed."""
        return ["stdlib", platform.python_implementation(), platform.python_version()]

    def parts(self) -> list[Source]:
        """One."""
        return [self]

    def documents(self) -> Iterator[Document]:
        """Yields the documents whose paragraphs have not all occurred before."""
        seen: set[str] = set()
        for name, text in _all_texts():
            fresh = _unseen_paragraphs(text, seen)
            if len(fresh) >= _SHORTEST:
                yield Document(name, fresh)


def _all_texts() -> Iterator[tuple[str, str]]:
    for topic in sorted(topics):
        for section in _HEADING.split(topics[topic]):
            yield f"topic {topic}", section
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in _module_files(library):
        name = f"docstrings of {path.relative_to(library).as_posix()}"
        yield name, "\n\n".join(_docstrings(path))


def _module_files(library: Path) -> list[Path]:
    files = []
    for path in library.rglob("*.py"):
        parts = path.relative_to(library).parts
        module = parts[0].removesuffix(".py")
        if module in sys.stdlib_module_names - _SKIPPED_MODULES and not (
            _SKIPPED_FOLDERS & set(parts)
        ):
            files.append(path)
    if not files:
        raise DataError(
            "this Python comes without the source files of its standard library, which the source "
            "'stdlib' reads; use 'text:PATH' instead.",
            path=library,
        )
    return sorted(files, key=lambda path: path.relative_to(library).parts)


def _docstrings(path: Path) -> list[str]:
    with open_file(path) as stream:
        tree = ast.parse(stream.read())
    nodes = (node for node in ast.walk(tree) if isinstance(node, _DOCUMENTED))
    return [text for node in nodes if (text := ast.get_docstring(node))]


def _unseen_paragraphs(text: str, seen: set[str]) -> str:
    fresh = []
    for paragraph in _BLANK_LINES.split(text.strip()):
        words = " ".join(paragraph.split())
        if words and words not in seen:
            seen.add(words)
            fresh.append(paragraph.rstrip())
    return "\n\n".join(fresh)


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
