"""Adding an optimizer is one file and one line, as the guide promises; then it takes part."""

import re
import shutil
import subprocess
import sys
import textwrap

import pytest

from tests.support import ROOT

GUIDE = ROOT / "docs" / "guides" / "optimizer.md"
SETTINGS = (
    "--data.source synthetic --data.cache-dir cache --model.layers 1 --model.d-model 16 "
    "--model.heads 2 --steps 3 --batch-size 8 --context 16 --schedule.warmup-steps 1"
)


@pytest.fixture
def clone(tmp_path):
    """The repository with ADOPT in it: the guide's first code block, and its class in the list."""
    for package in ("train", "models", "optax_strat"):
        shutil.copytree(ROOT / package, tmp_path / package)
    block = re.search(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL).group(1)
    code = textwrap.dedent(re.sub(r"^(>>>|\.\.\.) ?", "", block, flags=re.MULTILINE))
    optimizers = tmp_path / "train" / "optimizers"
    (optimizers / "adopt.py").write_text(f"from __future__ import annotations\n{code}")
    listed = (optimizers / "__init__.py").read_text()
    listed = listed.replace("    Lion,\n    LAMB,\n", "    Lion,\n    Adopt,\n    LAMB,\n")
    imported = "from train.optimizers.adopt import Adopt\n"
    listed = listed.replace("from train.optimizers.base", imported + "from train.optimizers.base")
    (optimizers / "__init__.py").write_text(listed)
    return tmp_path


def python(clone, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "train", *arguments],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_one_file_and_one_line_make_an_optimizer_that_runs_is_compared_and_explained(clone):
    run = f"run nano --out run {SETTINGS} optimizer:adopt --optimizer.b2 0.99"
    assert "after 384 tokens" in python(clone, *run.split())
    assert '"kind": "Adopt"' in (clone / "run" / "config.json").read_text()
    compare = f"compare --only adopt --seeds 1 --cost-rounds 0 --out both {SETTINGS}"
    assert "adopt-s0" in python(clone, *compare.split())
    assert "adopt" in python(clone, *f"explain nano {SETTINGS} optimizer:adopt".split()).lower()
