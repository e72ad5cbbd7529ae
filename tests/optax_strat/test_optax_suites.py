"""Optax's own test suites, as its wheel ships them, ask of our optimizers what they ask of Optax's.

A suite is a module with a table of optimizers at its top, from which its tests are generated. Here
it is read with one of our optimizers for that table, and run by ``unittest``.
"""

import ast
import dataclasses
import functools
import importlib.util
import os
import re
import sys
import types
import unittest
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_strat import Layers, aardvark, stratopt
from tests.support import fast, targets
from tests.support.optimizers import OPTIMIZERS, TABLE

EXCLUDED = {
    # Clipping entry by entry needs an order: complex gradients are refused.
    "aardvark, literal": "complex",
    # And so are they by a first moment that is told to be real: it would lose half of them.
    **{
        name: "complex"
        for name, factory in TABLE.items()
        if "mu_dtype" in getattr(factory, "keywords", ())
    },
    # An injected b1 is a traced number, of which nobody knows that it is zero.
    "stratopt, without a first moment": "inject_hyperparams",
}
"""Part of the names of the tests that an optimizer is not made for."""


@dataclasses.dataclass(frozen=True)
class Suite:
    """A test module of Optax's, and how an optimizer gets into it."""

    module: str
    tests: str
    """A regular expression for the names of its tests that are about the optimizers of its table.
    The numbers behind a name are those of the table's entries."""
    tables: Callable[[str], dict[str, Any]]
    """From an optimizer's name to the tables that the tests are generated from."""
    factory: Callable[[str], dict[str, Any]] = lambda _: {}
    """From an optimizer's name to the global by which the tests make an optimizer of its name."""
    optimizers: Sequence[str] = tuple(OPTIMIZERS)
    excludes: bool = True
    """Whether ``EXCLUDED`` applies."""


def ours(name: str) -> Callable[..., Any]:
    """The factory; Optax's models have layers whose types no rule knows."""
    return functools.partial(TABLE[name], layers=Layers(unmatched="other"))


def alias(tests: str, rate: Callable[[str], Any]) -> Suite:
    return Suite(
        "optax._src.alias_test",
        tests,
        lambda name: {
            "_OPTIMIZERS_UNDER_TEST": [
                {"opt_name": name, "opt_kwargs": {"learning_rate": rate(name)}}
            ]
        },
        lambda name: {"_get_opt": lambda *_: ours(name)},
    )


def contrib(tests: str, rate: Callable[[str], Any]) -> Suite:
    def table(name: str) -> list[dict[str, Any]]:
        kwargs = {"learning_rate": rate(name)}
        unwrapped = {"wrapper_name": None, "wrapper_kwargs": None}
        return [{"opt_name": name, "opt_kwargs": kwargs, **unwrapped}]

    return Suite(
        "optax.contrib._common_test",
        tests,
        lambda name: {
            "_MAIN_OPTIMIZERS_UNDER_TEST": table(name),
            "_ALL_OPTIMIZERS_UNDER_TEST": table(name),
        },
        lambda name: {"_get_opt_factory": lambda _: ours(name)},
    )


def constant(_: str) -> float:
    return 1e-2


SUITES = {
    "alias, dtypes of moments": dataclasses.replace(
        alias(r"test_explicit_dtype\d+", constant),
        optimizers=("stratopt", "stratopt, low precision", "aardvark", "aardvark, factored"),
        excludes=False,
    ),
    "alias": alias(r"test_(optimizers|preserve|state_shape|gradient)_\w+", constant),
    "alias, convergence": alias(r"test_optimization\d+", targets.learning_rate),
    "contrib": contrib(r"test_\w+(?<!test_optimizers)\d+", constant),
    "contrib, convergence": contrib(r"test_optimizers\d+", targets.learning_rate),
    "sharding": Suite(
        "optax._src.sharding_test",
        r"test_(init|state)_\w+",
        lambda name: {"OPTIMIZERS": {"ours": ours(name)(1.0)}},
    ),
    "float64": Suite(
        "optax._src.float64_test",
        r"test_\w+",
        lambda name: {"ALL_MODULES": [("ours", ours(name), {"learning_rate": 0.1})]},
    ),
    "accumulation": Suite(
        "optax.transforms._accumulation_test",
        r"test_multi_steps_mixed_precision\d+",
        lambda name: {
            "OPTIMIZERS_TO_TEST": [{"opt_name": name, "opt_kwargs": {"learning_rate": 0.1}}]
        },
        lambda name: {"alias": types.SimpleNamespace(**{name: ours(name)})},
        # It compiles every step anew. tests/optax_strat/test_conformance.py asks the same of all.
        optimizers=("stratopt", "aardvark"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "name"), [(suite, name) for suite in SUITES for name in SUITES[suite].optimizers]
)
def test_optaxs_own_suite_passes(suite: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only tests of L-BFGS use scikit-learn, and one module sets the flags at its import.
    absent = types.SimpleNamespace(datasets=None, linear_model=None)
    monkeypatch.setitem(sys.modules, "sklearn", absent)
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])
    # Optax compares versions of JAX as text, in which 0.10 comes before 0.7.2, and skips.
    monkeypatch.setattr(jax, "__version__", "1")
    module = load(SUITES[suite], name)
    asked = [
        case
        for case in cases(unittest.defaultTestLoader.loadTestsFromModule(module))
        if re.fullmatch(SUITES[suite].tests, case._testMethodName)
        and not (SUITES[suite].excludes and EXCLUDED.get(name, "none") in str(case))
    ]
    result = unittest.TestResult()
    try:
        unittest.TestSuite(asked).run(result)
    finally:
        jax.config.update("jax_enable_x64", False)  # a failed test in float64 leaves it on
    broken = [f"{case}\n{report}" for case, report in result.failures + result.errors]
    assert not broken, "\n\n".join(broken)
    assert not result.skipped, f"Not asked: {result.skipped}"
    assert result.testsRun > 0


def load(suite: Suite, name: str) -> types.ModuleType:
    """The module of a suite, with an optimizer of ours in its tables."""
    spec = importlib.util.find_spec(suite.module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text())
    tables, replaced = suite.tables(name), set()
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=table)]) if table in tables:
                node.value = ast.parse(f"TABLES[{table!r}].copy()", mode="eval").body
                replaced.add(table)
    assert replaced == set(tables), f"{suite.module} has no {set(tables) - replaced} any more."
    module = types.ModuleType(suite.module)
    vars(module)["TABLES"] = tables
    exec(compile(ast.fix_missing_locations(tree), spec.origin, "exec"), vars(module))
    vars(module).update(suite.factory(name))
    return module


def cases(tests: unittest.TestSuite) -> Iterator[Any]:
    for test in tests:
        if isinstance(test, unittest.TestSuite):
            yield from cases(test)
        else:
            yield test


@pytest.mark.parametrize("make", fast([stratopt, aardvark], aardvark))
@pytest.mark.parametrize("mu_dtype", ["bfloat16", "float32", "complex64", None])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "complex64"])
def test_a_first_moment_has_the_dtype_that_it_is_told_and_updates_that_of_gradients(
    make: Any, dtype: str, mu_dtype: str | None
) -> None:
    """Optax's test of explicit dtypes, which asks no more of a state than how it begins."""
    tx = make(0.1, mu_dtype=mu_dtype)
    g = jnp.asarray([3.0, -4.0], dtype) * (1 + 1j if dtype == "complex64" else 1)
    state = tx.init(g)
    assert optax.tree.get(state, "mu").dtype == (mu_dtype or dtype)
    if dtype == "complex64" and mu_dtype in ("bfloat16", "float32"):
        with pytest.raises(ValueError, match=f"mu_dtype='{mu_dtype}' cannot hold the imaginary"):
            tx.update(g, state, g)
        return
    updates, after = jax.jit(tx.update)(g, state, g)
    assert updates.dtype == dtype
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    expected, _ = make(0.1).update(g, make(0.1).init(g), g)
    tolerance = 1e-2 if "bfloat16" in (dtype, mu_dtype) else 1e-6
    np.testing.assert_allclose(
        np.asarray(updates, np.complex128), np.asarray(expected, np.complex128), rtol=tolerance
    )
