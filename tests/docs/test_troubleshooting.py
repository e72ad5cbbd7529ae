"""Troubleshooting quotes messages: each still occurs in the source, word for word."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.support import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
QUOTED = re.compile(r"^`([^`]+)`\n: ", re.MULTILINE)
BLANK = "…"
"""What the page, and `messages`, have where a message has a value."""


def text_of(node: ast.expr) -> str:
    """A string, or an f-string with every value blanked; anything else is nothing."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or BLANK for part in node.values)
    return ""


def messages() -> Iterator[str]:
    for package in ("optax_strat", "models", "train"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.Constant | ast.JoinedStr):
                    yield " ".join(text_of(node).split())


@pytest.fixture(scope="module")
def in_the_source() -> str:
    return "\n".join(messages())


@pytest.mark.parametrize("quoted", QUOTED.findall(PAGE.read_text("utf-8")))
def test_a_quoted_message_occurs_in_the_source(quoted: str, in_the_source: str):
    assert quoted in in_the_source


def test_the_page_quotes_messages_of_the_library_and_of_the_trainer():
    assert len(QUOTED.findall(PAGE.read_text("utf-8"))) > 50
