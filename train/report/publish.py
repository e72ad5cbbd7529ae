"""The results in README and documentation: made from the records, never typed.

What stands between two comments of a page is rewritten, the rest is left as it is:

    <!-- results:nano/losses -->
    <!-- /results -->
"""

from __future__ import annotations

import re
from pathlib import Path

from train.report.sections import Sections

_SECTION = re.compile(r"(<!-- results:(\S+) -->\n).*?(<!-- /results -->)", re.DOTALL)


def publish(root: Path) -> list[Path]:
    """Rewrites the pages whose results are out of date, and returns them.

    Args:
        root: the repository: its `README.md` and the pages of its `docs` are made from the packed
            records in its `results`.

    Raises:
        ValueError: a page asks for what there is not, or records do not make one table.
        RecordError: a record cannot be read.
    """
    changed = outdated(root)
    for page, text in changed.items():
        page.write_text(text, encoding="utf-8")
    return list(changed)


def outdated(root: Path) -> dict[Path, str]:
    """The pages whose results are not those of the records, and what they should be."""
    sections = Sections(root / "results")

    def made(match: re.Match[str]) -> str:
        start, name, end = match.groups()
        return f"{start}{sections[name]}{end}"

    docs = (page for page in (root / "docs").rglob("*.md") if "_build" not in page.parts)
    found = {}
    for page in [root / "README.md", *sorted(docs)]:
        text = page.read_text(encoding="utf-8")
        current = _SECTION.sub(made, text)
        if current != text:
            found[page] = current
    return found
