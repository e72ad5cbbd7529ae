"""Docstrings of constants and fields, which autodoc and Napoleon would otherwise lose or bend.

Autodoc looks for the docstring of a constant where its name is imported, not where it is set.
Napoleon takes the words before a field's first colon for its type. Named tuples give fields without
a docstring one that says nothing.
"""

import sys
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import PycodeError
from sphinx.pycode import ModuleAnalyzer

BEFORE_NAPOLEON, AFTER_NAPOLEON = 400, 600


def written_docstring(package: str, name: str) -> list[str] | None:
    """The lines under a constant's definition, in whichever module of the package has one."""
    for module in [key for key in sys.modules if key.startswith(f"{package}.")]:
        try:
            docstrings = ModuleAnalyzer.for_module(module).find_attr_docs()
        except PycodeError:
            continue
        if ("", name) in docstrings:
            return docstrings["", name]
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects to autodoc, once on either side of Napoleon."""
    as_written: dict[str, list[str]] = {}

    def find(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        if what == "data":
            package, _, constant = name.rpartition(".")
            as_written[name] = written_docstring(package, constant) or []
        elif what == "attribute":
            no_docstring = lines and lines[0].startswith("Alias for field number")
            as_written[name] = [] if no_docstring else list(lines)

    def restore(
        app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
    ) -> None:
        if name in as_written:
            lines[:] = as_written.pop(name)

    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", find, priority=BEFORE_NAPOLEON)
    app.connect("autodoc-process-docstring", restore, priority=AFTER_NAPOLEON)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
