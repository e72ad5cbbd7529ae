"""What looks at the built documentation finds what is wrong with a page."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support import ROOT

DOCS = ROOT / "docs"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


links = load(DOCS / "_extensions" / "links.py")
chromium = load(DOCS / "_checks" / "chromium.py")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "other.html").write_text('<h1 id="place">Other</h1><a name="old">')
    (tmp_path / "picture.svg").write_text("<svg></svg>")
    return tmp_path


@pytest.mark.parametrize(
    "link",
    [
        '<a href="other.html#nowhere">',
        '<a href="#nowhere">',
        '<a href="gone.html">',
        '<a href="../outside.html">',
        '<a href="http://unencrypted.example/">',
        '<a href="file:///etc/hosts">',
        '<img src="gone.png">',
        '<img src="https://elsewhere.example/picture.png">',
        '<script src="//elsewhere.example/script.js">',
        '<link rel="stylesheet" href="https://elsewhere.example/font.css">',
    ],
)
def test_a_link_that_leads_nowhere_or_loads_from_elsewhere_is_found(site: Path, link: str):
    (site / "page.html").write_text(link)
    assert len(list(links.broken_links(site))) == 1


def test_links_that_lead_somewhere_are_left_in_peace(site: Path):
    (site / "page.html").write_text(
        '<p id="here"><a href="other.html#place"><a href="other.html#old"><a href="#here">'
        '<a href="#"><a href="other.html"><a href="https://elsewhere.example/page">'
        '<img src="picture.svg"><img src="data:image/png;base64,AA==">'
    )
    assert list(links.broken_links(site)) == []


@pytest.mark.slow
def test_a_strict_build_fails_at_a_broken_link(tmp_path: Path):
    extensions = str(DOCS / "_extensions")
    (tmp_path / "conf.py").write_text(
        f"import sys; sys.path.insert(0, {extensions!r}); extensions = ['links']"
    )
    (tmp_path / "index.rst").write_text('Title\n=====\n\n.. raw:: html\n\n   <a href="#gone">')
    build = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q", "."]
    done = subprocess.run([*build, "html"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "index.html: nothing is at #gone" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(chromium.find_chromium() is None, reason="no Chromium is installed")
def test_a_browser_finds_errors_requests_and_what_is_too_wide(tmp_path: Path):
    (tmp_path / "page.html").write_text(
        '<!doctype html><meta name="viewport" content="width=device-width">'
        '<p style="width: 900px">wide</p><img src="https://elsewhere.invalid/picture.png">'
        "<script>console.error('oh', 3); nothing()</script>"
        "<script>if (matchMedia('(prefers-color-scheme: dark)').matches) alas()</script>"
    )
    look = [sys.executable, str(DOCS / "_checks" / "pages.py"), str(tmp_path)]
    done = subprocess.run(look, capture_output=True, text=True)
    assert done.returncode == 1
    for problem in (
        "page (light-1280): console.error: oh 3",
        "page (light-1280): ReferenceError: nothing is not defined",
        "page (dark-400): ReferenceError: alas is not defined",
        "page (light-400): asks the network for https://elsewhere.invalid/picture.png",
        "page (light-400): 508 pixels wider than the screen",
    ):
        assert problem in done.stdout
    assert "page (light-1280): ReferenceError: alas" not in done.stdout
