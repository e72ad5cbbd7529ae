"""The documentation: its examples run, its reference is complete, its pages need no network."""

import collections
import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

import optax_strat
from tests.support import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def python_lines(page: Path) -> str:
    """A page with everything blanked but the insides of its Python blocks, line for line."""
    text = page.read_text("utf-8")
    inside = {
        number
        for block in PYTHON_BLOCK.finditer(text)
        for number in range(text.count("\n", 0, block.start(1)), text.count("\n", 0, block.end(1)))
    }
    lines = text.splitlines()
    return "\n".join(line if i in inside else "" for i, line in enumerate(lines)) + "\n"


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


WITH_EXAMPLES = [page for page in PAGES if PYTHON_BLOCK.search(page.read_text("utf-8"))]


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name_of)
def test_the_examples_of_a_page_run_from_top_to_bottom(page: Path):
    example = doctest.DocTestParser().get_doctest(python_lines(page), {}, page.name, str(page), 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    runner.run(example, out=report.append)
    assert runner.tries > 0
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name_of)
def test_every_python_block_is_an_example_that_runs(page: Path):
    blocks = PYTHON_BLOCK.findall(page.read_text("utf-8"))
    assert all(block.startswith(">>> ") for block in blocks)


def test_the_reference_lists_every_public_name_once():
    listed = collections.Counter(
        name
        for page in (DOCS / "reference").glob("*.md")
        for name in re.findall(r"^\.\. auto\w+:: (\w+)$", page.read_text("utf-8"), re.MULTILINE)
    )
    assert listed == collections.Counter(optax_strat.__all__)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it: any warning is an error."""
    out = tmp_path_factory.mktemp("site")
    strictly = ["--fail-on-warning", "--keep-going", "--nitpicky", "--quiet"]
    command = [sys.executable, "-m", "sphinx", *strictly, str(DOCS), str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_style_sheets_ask_no_network_for_anything(site: Path):
    requested = re.compile(r"""@import\s|@font-face|url\(\s*["']?(?:https?:)?//""")
    written = list(site.rglob("*.css"))
    assert written
    for file in written:
        assert not requested.search(file.read_text("utf-8")), file


@pytest.mark.slow
def test_equations_are_mathml_with_their_numbers_beside_them(site: Path):
    page = (site / "readings" / "aardvark.html").read_text("utf-8")
    assert re.findall(r"<mtext>\((\d)\)</mtext></mtd></mtr>", page) == list("345678")
    assert "<mi>clip</mi>" in page
    assert "&amp;#x" not in page
