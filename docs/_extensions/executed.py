"""Notebooks, run once: their outputs go into the pages, and an error in a cell fails the build.

Outputs are kept as long as nothing changed that they can depend on: the notebook itself (by
jupyter-cache), and, in the name of the cache's folder, the sources that it calls, the records
that it draws, and JAX.
"""

import hashlib
import os
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent.parent
SOURCES = ("optax_strat/**/*.py", "models/**/*.py", "train/**/*.py", "results/study/*.jsonl")


def cache_folder() -> Path:
    """Where outputs are kept that today's sources and today's JAX made."""
    digest = hashlib.sha256(f"{version('jax')} {version('optax')}".encode())
    for pattern in SOURCES:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.read_bytes())
    return ROOT / "cache" / "notebooks" / digest.hexdigest()[:12]


def _link_pages(app: Sphinx, page: str, source: list[str]) -> None:
    """Turns the links of the notebooks' README, which name files, into links to pages."""
    if page == "notebooks/README":
        source[0] = re.sub(r"\[([^]]+)\]\((\w+)\.py\)", r"{doc}`\1 <\2>`", source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """Gives all kernels the same surroundings, wherever the build is started."""
    app.connect("source-read", _link_pages)
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ["MATPLOTLIBRC"] = str(ROOT / "notebooks" / "matplotlibrc")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # XLA warns of what it cannot shard better
    os.environ.pop("XLA_FLAGS", None)  # the test suite's, which make programs slow
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
