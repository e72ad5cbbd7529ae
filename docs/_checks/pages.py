"""Opens every page of the documentation in Chromium, as a reader would: `make docs-check`.

Each page is loaded light and dark, on a wide screen and on a phone. Nothing may be written to the
console, nothing be asked of the network, and nothing be wider than the screen.
"""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from chromium import Chromium, find_chromium


class View(NamedTuple):
    """How a page is looked at."""

    theme: str
    width: int
    """Of the window, in CSS pixels."""

    @property
    def name(self) -> str:
        """As it is called in messages and in the names of pictures."""
        return f"{self.theme}-{self.width}"


VIEWS = [View(theme, width) for theme in ("light", "dark") for width in (1280, 400)]


def set_view(browser: Chromium, view: View) -> None:
    """Gives the window its width and the reader a preference."""
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        width=view.width,
        height=900,
        deviceScaleFactor=1,
        mobile=view.width < 600,
    )
    preference = {"name": "prefers-color-scheme", "value": view.theme}
    browser.call("Emulation.setEmulatedMedia", features=[preference])


def problems(browser: Chromium, page: Path, view: View) -> Iterator[str]:
    """Opens a page and yields what is wrong with it."""
    browser.open(page.as_uri())
    # A phone zooms out until it all fits, so its own width of the window tells nothing.
    too_wide = browser.evaluate("document.documentElement.scrollWidth") - view.width
    for method, event in browser.events:
        if method == "Runtime.exceptionThrown":
            yield event["exceptionDetails"]["exception"]["description"]
        elif method == "Runtime.consoleAPICalled":
            words = (str(one.get("value", one.get("description"))) for one in event["args"])
            yield f"console.{event['type']}: {' '.join(words)}"
        elif method == "Log.entryAdded":
            yield f"{event['entry']['text']} ({event['entry'].get('url', '')})"
        elif method == "Network.requestWillBeSent":
            url = event["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                yield f"asks the network for {url}"
    if too_wide > 0:
        yield f"{too_wide} pixels wider than the screen"


def take_picture(browser: Chromium, path: Path) -> None:
    """Writes the whole page as a PNG."""
    size = browser.call("Page.getLayoutMetrics")["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
    picture = browser.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(base64.b64decode(picture["data"]))


def main() -> None:
    """Looks at all pages; exits with 1 if something is wrong with one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path, help="the folder with the pages")
    parser.add_argument("--pictures", type=Path, help="write a PNG of every view into this folder")
    options = parser.parse_args()
    executable = find_chromium()
    if executable is None:
        sys.exit("no Chromium is installed: apt-get install chromium")
    pages = sorted(options.site.resolve().rglob("*.html"))
    if not pages:
        sys.exit(f"{options.site} holds no pages: make docs")
    browser, wrong = Chromium(executable), 0
    try:
        for view in VIEWS:
            set_view(browser, view)
            for page in pages:
                name = page.relative_to(options.site.resolve()).with_suffix("").as_posix()
                for problem in problems(browser, page, view):
                    print(f"{name} ({view.name}): {problem}")
                    wrong += 1
                if options.pictures:
                    take_picture(browser, options.pictures / f"{name}-{view.name}.png")
    finally:
        browser.close()
    print(f"{len(pages)} pages in {len(VIEWS)} views: {wrong} problems.")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
