"""An explanation as tables for people."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from train.chain import Link
from train.inspection.explain import Explanation, Parameter


def explanation_tables(explanation: Explanation) -> Group:
    """The strata, and the chain under them."""
    return Group(_strata(explanation), _chain(explanation))


def _strata(explanation: Explanation) -> Table:
    """A line a layer type with its share and rate, and under it its parameters."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer type", no_wrap=True)
    table.add_column("shape", no_wrap=True)
    for heading in ("share", "decay", "rate"):
        table.add_column(heading, justify="right")
    types: dict[str, list[Parameter]] = {}
    for parameter in explanation.parameters:
        types.setdefault(parameter.layer_type, []).append(parameter)
    for layer_type, members in types.items():
        share = f"{sum(member.share for member in members):.1%}"
        table.add_row(f"[bold]{layer_type}[/]", "", share, "", f"{members[0].multiplier:.3g}")
        for member in members:
            decays = "yes" if member.decays else "no"
            table.add_row(f"  {member.path}", _shape(member), f"{member.share:.1%}", decays, "")
    return table


def _chain(explanation: Explanation) -> Tree:
    state = f"{explanation.state_bytes_per_parameter:.3g} bytes of state a parameter"
    tree = Tree(f"[bold]{explanation.optimizer}[/], what a gradient passes in order; {state}")
    for link in explanation.chain:
        _grow(tree, link)
    return tree


def _grow(tree: Tree, link: Link) -> None:
    settings = ", ".join(f"{name}={value}" for name, value in link.settings.items())
    branch = tree.add(f"[bold]{escape(link.name)}[/]  {escape(settings)}".rstrip())
    for part in link.parts:
        _grow(branch, part)


def _shape(parameter: Parameter) -> str:
    """Sizes, each with the mesh axis that splits it: `12 x 768:fsdp x 2048`."""
    axes = (*parameter.sharding, *[""] * len(parameter.shape))
    sizes = zip(parameter.shape, axes, strict=False)
    return " x ".join(f"{size}:{axis}" if axis else f"{size}" for size, axis in sizes)
