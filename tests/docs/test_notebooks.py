"""The notebooks: built alike, made of public names, run again when what they call changes.

That each runs to its end is asked by the documentation's build, in `tests/docs/test_docs.py`.
"""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

from tests.support import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture
def executed(monkeypatch):
    """The extension that runs them."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "_extensions")
    yield importlib.import_module("executed")
    sys.modules.pop("executed")


@every_notebook
def test_it_begins_with_what_is_learnt_and_ends_with_what_to_change(path: Path):
    first, *_, last = jupytext.read(path, fmt="py:percent").cells
    title, promise = first.source.split("\n\n", maxsplit=1)
    assert title.startswith("# ")
    assert promise.startswith("You will ")
    assert last.cell_type == "markdown"
    _, advice = last.source.split("## What to change next\n\n")
    assert advice.count("\n- ") + 1 >= 3


@every_notebook
def test_it_is_in_the_list_and_in_the_documentation(path: Path):
    assert f"]({path.name})" in (ROOT / "notebooks" / "README.md").read_text("utf-8")
    assert f"\nnotebooks/{path.stem}\n" in (ROOT / "docs" / "index.md").read_text("utf-8")


@every_notebook
def test_it_imports_public_names_alone(path: Path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        package = node.module.partition(".")[0]
        names = [alias.name for alias in node.names]
        if package in ("optax_strat", "models"):
            assert node.module == package
            assert set(names) <= set(importlib.import_module(package).__all__)
        if package == "train":
            assert not any(part.startswith("_") for part in [*node.module.split("."), *names])


def test_outputs_are_made_again_when_a_source_changes(executed, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(executed, "ROOT", tmp_path)
    source = tmp_path / "train" / "loss.py"
    source.parent.mkdir()
    source.write_text("LOSS = 1\n", "utf-8")
    before = executed.cache_folder()
    assert executed.cache_folder() == before
    (tmp_path / "train" / "notes.txt").write_text("no source", "utf-8")
    assert executed.cache_folder() == before
    source.write_text("LOSS = 2\n", "utf-8")
    assert executed.cache_folder() != before


def test_outputs_are_made_again_when_the_study_has_other_records(
    executed, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(executed, "ROOT", tmp_path)
    before = executed.cache_folder()
    records = tmp_path / "results" / "study" / "rates.jsonl"
    records.parent.mkdir(parents=True)
    records.write_text("{}\n", "utf-8")
    assert executed.cache_folder() != before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("1 / 0", "division by zero"),
        ("import warnings; warnings.warn('careful')", "stderr was found in the cell outputs"),
    ],
)
def test_an_error_or_a_warning_in_a_cell_fails_the_build(cell: str, message: str, tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "index.py").write_text(f"# %% [markdown]\n# # Title\n\n# %%\n{cell}\n", "utf-8")
    command = [
        *(sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet"),
        *("-c", str(ROOT / "docs"), "-D", f"nb_execution_cache_path={tmp_path / 'cache'}"),
        *(str(source), str(tmp_path / "site")),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert message in done.stderr
