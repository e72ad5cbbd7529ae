r"""Equations as MathML, made at build time: no script, no font and no request in the browser.

latex2mathml does the translation. What MathML Core, the part that browsers draw, leaves out is made
up for here: ``\tag`` becomes a column of its own, whose place a style sheet sets, and words such as
``\mathrm{clip}`` become one identifier and not a row of letters.
"""

import html
import re
from typing import Any
from xml.etree import ElementTree

from docutils import nodes
from latex2mathml.converter import convert_to_element
from sphinx.application import Sphinx

TAG = re.compile(r"\\tag\{([^}]*)\}")


def mathml(latex: str, display: str) -> str:
    """An equation as a ``<math>`` element, with its source as the text that is read aloud."""
    source = " ".join(latex.split())
    root = convert_to_element(TAG.sub(r"& \\text{(\1)}", latex), display=display)
    for element in root.iter():
        _join_letters(element)
        element.text = html.unescape(element.text) if element.text else None
    root.set("alttext", source)
    return ElementTree.tostring(root, encoding="unicode")


def _join_letters(parent: ElementTree.Element) -> None:
    r"""Makes one upright identifier of the letters that ``\mathrm`` comes as."""
    letters = list(parent)
    if len(letters) > 1 and all(
        child.tag == "mi" and child.get("mathvariant") == "normal" for child in letters
    ):
        parent[:] = []
        parent.tag, parent.text = "mi", "".join(child.text or "" for child in letters)


def visit_inline(self: Any, node: nodes.math) -> None:
    """Writes an equation within a line."""
    self.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.math_block) -> None:
    """Writes an equation on lines of its own."""
    self.body.append(self.starttag(node, "div", CLASS="math-block"))
    self.body.append(mathml(node.astext(), "block"))
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the renderer ``mathml`` for ``html_math_renderer``."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
