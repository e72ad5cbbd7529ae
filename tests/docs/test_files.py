"""Documentation names files and folders of the repository: each is where it says."""

import re
from pathlib import Path

import pytest

from tests.support import ROOT

FOLDERS = "optax_strat|models|train|tests|benchmarks|launch|locks|results"
NAMED = re.compile(rf"`((?:{FOLDERS})/[\w./-]*)`")
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts),
]
NAMING = [page for page in PAGES if NAMED.search(page.read_text("utf-8"))]


@pytest.mark.parametrize("page", NAMING, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_files_that_a_page_names_exist(page: Path):
    named = NAMED.findall(page.read_text("utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []
