"""Signatures as their authors wrote them: ``layer_clip: Threshold = 1.0``.

Autodoc would write out every alias, a screenful for each optimizer. Here the names of the aliases
stay (the reference explains each once), modules in front of names go, and so does ``Any``. The
signature of a class has the types of its fields, and the fields below it have none.
"""

import ast
import inspect
import textwrap
from typing import Any

from sphinx.application import Sphinx


class _Shorten(ast.NodeTransformer):
    """``_clipping.Threshold`` becomes ``Threshold``, and an annotation ``Any`` none."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.Name:
        return ast.Name(node.attr)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node = self.generic_visit(node)  # type: ignore[assignment]
        if isinstance(node.annotation, ast.Name) and node.annotation.id == "Any":
            node.annotation = None
        return node


def written_signature(obj: Any) -> tuple[str, str | None]:
    """The arguments of a function, or the fields of a class, and what comes back."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(obj))).body
    if isinstance(definition, ast.ClassDef):
        fields = [field for field in definition.body if isinstance(field, ast.AnnAssign)]
        return (f"({ast.unparse(_Shorten().visit(_arguments(fields)))})" if fields else ""), None
    assert isinstance(definition, ast.FunctionDef)
    definition = _Shorten().visit(definition)
    returns = ast.unparse(definition.returns) if definition.returns else None
    arguments = ast.unparse(definition.args).replace("1e-08", "1e-8")  # as everyone writes it
    return f"({arguments})", None if returns == "Any" else returns


def _arguments(fields: list[ast.AnnAssign]) -> ast.arguments:
    """The fields of a class as the arguments of the function that makes one."""
    return ast.arguments(
        posonlyargs=[],
        args=[ast.arg(ast.unparse(field.target), field.annotation) for field in fields],
        kwonlyargs=[],
        kw_defaults=[],
        defaults=[field.value for field in fields if field.value is not None],
    )


def process(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: Any, returns: Any
) -> tuple[str, str | None] | None:
    """Answers autodoc's question for the signature of a function or a class."""
    del app, name, options, signature, returns
    return written_signature(obj) if what in ("function", "class") else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects to autodoc."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-signature", process)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
