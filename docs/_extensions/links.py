"""Every link of a built page leads somewhere: to a file of the site, and to a place in it.

Sphinx knows of the references that it resolved itself. This looks at what came out: anchors,
pictures, style sheets and raw HTML too. A page that would load anything from elsewhere is refused;
links that readers may follow to other sites are not, and are not tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.util import logging

LOADS = {("script", "src"), ("link", "href"), ("img", "src"), ("source", "src"), ("iframe", "src")}
LEADS = {("a", "href")}


class _Page(HTMLParser):
    """The places of a page that can be linked to, and what it loads and leads to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.places = {"", "top"}
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if not value:
                continue
            if name == "id" or (tag, name) == ("a", "name"):
                self.places.add(value)
            elif (tag, name) in LOADS:
                self.loads.append(value)
            elif (tag, name) in LEADS:
                self.leads.append(value)


def broken_links(site: Path) -> Iterator[tuple[Path, str]]:
    """The pages of a built site and the addresses in them that lead nowhere.

    Args:
      site: The folder with the pages.
    """
    pages = {path: _Page(path) for path in sorted(site.resolve().rglob("*.html"))}
    for path, page in pages.items():
        for address in page.loads + page.leads:
            scheme, host, file, _, place = urlsplit(address)
            if scheme == "data" or (address in page.leads and scheme in ("https", "mailto")):
                continue
            target = (path.parent / unquote(file)).resolve() if file else path
            inside = not scheme and not host and target.is_relative_to(site.resolve())
            known = target not in pages or unquote(place) in pages[target].places
            if not (inside and target.is_file() and known):
                yield path, address


def _warn_of_broken_links(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.name == "html":
        for path, address in broken_links(Path(app.outdir)):
            page = path.relative_to(Path(app.outdir).resolve())
            logging.getLogger(__name__).warning("%s: nothing is at %s", page, address)


def setup(app: Sphinx) -> dict[str, Any]:
    """Looks when all pages are written; what it finds fails a strict build."""
    # Last of all: only when a build is finished does MyST-NB add its style sheet.
    app.connect("build-finished", _warn_of_broken_links, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
