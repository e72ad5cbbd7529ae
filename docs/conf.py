"""Builds the documentation: ``make docs``. Needs no network, and neither do the pages."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_extensions"), str(HERE.parent)]
os.environ["JAX_PLATFORMS"] = "cpu"

from executed import cache_folder  # noqa: E402

from optax_strat import __version__  # noqa: E402

project = "optax_strat"
author = "The optax_strat authors"
copyright = "The optax_strat authors, Apache-2.0"
version = release = __version__

extensions = [
    "docstrings",
    "executed",
    "links",
    "mathml",
    "myst_nb",
    "signatures",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_checks", "_extensions", "conf.py", "images"]
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

# Notebooks are Python files; executed in the build, unless their outputs are in the cache.
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"
nb_execution_cache_path = str(cache_folder())
nb_execution_in_temp = True
nb_execution_show_tb = True  # and the warning that shows it fails the build
nb_execution_timeout = 300  # seconds a cell
nb_merge_streams = True
nb_ipywidgets_js = {}  # would be fetched
nb_output_stderr = "remove-warn"  # so does what a library warns of

add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # signatures.py writes them
python_maximum_signature_line_length = 88
napoleon_use_rtype = False

# Types of Python, jax and optax in signatures: their documentation lies elsewhere, and an inventory
# of it would have to be fetched. State is a type variable.
nitpick_ignore_regex = [
    ("py:class", r"(jax\..*)?Array(Like)?|DTypeLike|State"),
    ("py:class", r"Params|Updates|OptState|(ScalarOr)?Schedule|GradientTransformation(ExtraArgs)?"),
]

html_theme = "furo"
html_title = "optax_strat"
html_static_path = ["_static"]
templates_path = ["_templates"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"

# Copy what follows the prompts, and leave out what they printed.
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
