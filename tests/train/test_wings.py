"""The plan of train/: wings import downwards only, and each knows what it needs and no more.

What is checked are the syntax trees: no import, not even one inside a function, gets around it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

WINGS = (
    "cli", "experiments", "inspection", "report", "run", "step", "tasks", "records", "config",
    "optimizers", "data", "host",
)  # fmt: skip
"""From the top down: a wing may import those behind it."""


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            assert node.module
            for alias in node.names:
                is_package = (ROOT / node.module.replace(".", "/")).is_dir()
                yield f"{node.module}.{alias.name}" if is_package else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def wing_imports(wing: str) -> set[tuple[str, str]]:
    """The files of a wing with the modules that they import."""
    return {
        (str(path.relative_to(ROOT)), module)
        for path in (ROOT / "train" / wing).rglob("*.py")
        for module in imports(path)
    }


def wing_of(module: str) -> str | None:
    """The wing of train/ that a module lies in."""
    top, _, rest = module.partition(".")
    return rest.split(".")[0] if top == "train" and rest else None


def test_every_folder_is_a_wing_and_the_top_holds_two_files():
    folders = {path.parent.name for path in (ROOT / "train").glob("*/__init__.py")}
    assert folders == set(WINGS)
    files = {path.name for path in (ROOT / "train").glob("*.py")}
    assert files == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("wing", WINGS)
def test_imports_go_downwards(wing):
    above = set(WINGS[: WINGS.index(wing)])
    assert not [found for found in wing_imports(wing) if wing_of(found[1]) in above]


@pytest.mark.parametrize(
    ("wing", "unknown"),
    [
        ("report", {"run", "step", "tasks", "experiments", "inspection", "data"}),
        ("run", {"report"}),
        ("optimizers", {"data", "host"}),
    ],
)
def test_report_and_run_meet_in_records_alone(wing, unknown):
    assert not [found for found in wing_imports(wing) if wing_of(found[1]) in unknown]


@pytest.mark.parametrize("wing", ["experiments", "run", "step", "tasks", "records", "data", "host"])
def test_nothing_below_the_command_line_draws_on_a_terminal(wing):
    """`rich.text` marks text and draws none."""
    drawing = [found for found in wing_imports(wing) if found[1].startswith("rich.")]
    assert not [found for found in drawing if not found[1].startswith("rich.text")]


@pytest.mark.parametrize("wing", ["step", "run"])
def test_step_and_run_know_neither_models_nor_an_optimizer_by_name(wing):
    """`models.sharding` holds what any model asks of a mesh, and no model."""
    known = {"models.sharding", "train.optimizers", "train.optimizers.base"}
    named = {
        found
        for found in wing_imports(wing)
        if found[1].startswith(("models", "train.optimizers.", "train.tasks.language_model"))
    }
    assert not [found for found in named if not found[1].startswith(tuple(known))]


def test_models_know_nothing_of_the_harness_and_the_library_nothing_of_either():
    for package, unknown in (("models", {"train"}), ("optax_strat", {"train", "models", "flax"})):
        for path in (ROOT / package).rglob("*.py"):
            assert not [module for module in imports(path) if module.split(".")[0] in unknown]
