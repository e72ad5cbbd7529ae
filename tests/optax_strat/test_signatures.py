"""Signatures are small, and every argument has a type that a type checker can use."""

import inspect
from pathlib import Path
from typing import Any

import pytest

import optax_strat

PUBLIC = {
    name: getattr(optax_strat, name)
    for name in optax_strat.__all__
    if inspect.isfunction(getattr(optax_strat, name))
}


@pytest.mark.parametrize("name", PUBLIC)
def test_no_argument_is_of_any_type(name: str) -> None:
    untyped = (Any, inspect.Parameter.empty)
    arguments = inspect.signature(PUBLIC[name]).parameters.values()
    assert [argument.name for argument in arguments if argument.annotation in untyped] == []


@pytest.mark.parametrize("name", PUBLIC)
def test_no_signature_is_longer_than_that_of_the_named_optimizers(name: str) -> None:
    assert len(inspect.signature(PUBLIC[name]).parameters) <= 16


def test_one_idea_has_one_name() -> None:
    """What labels and layout need is `layers` everywhere, and never one of its parts."""
    parts = {"rules", "unmatched", "stacked", "layer_types"}
    for name, function in PUBLIC.items():
        assert not parts & set(inspect.signature(function).parameters), name


GOOD = """
import jax.numpy as jnp
import optax
from optax_strat import Adaptive, Group, Layers, StratoptReadings
from optax_strat import aardvark, decays, stratify, stratopt

aardvark(1e-3, b1=jnp.float32(0.9), mask=decays, scaling=Adaptive(decay=0.9))
aardvark(optax.constant_schedule(1e-3), mask={"head": True}, layers={"head": "head"})
stratopt(1e-3, layer_clip={"mlp": 0.1}, layers=Layers(stacked={"layers": 1}), mu_dtype="bfloat16")
stratopt(1e-3, readings=StratoptReadings(centred=True), layers=lambda tree: tree)

by_name: dict[str, optax.GradientTransformation] = {"mlp": optax.identity()}
by_names: dict[tuple[str, ...], Group] = {("mlp", "head"): Group(frozen=True)}
stratify(by_name)
stratify(by_names)
pairs: dict[tuple[str, str], float] = {("mlp", "head"): 1.0}
stratify(pairs)
stratify({("mlp", "head"): optax.identity(), "norm": 0.1, ".*": Group(rate=2.0)})
"""
BAD = [
    'aardvark(1e-3, b1="0.9", mask=3)',
    'aardvark(1e-3, b1="0.9")',
    "aardvark(1e-3, mask=3)",
    'aardvark(1e-3, scaling="learned")',
    "aardvark(1e-3, layers=3)",
    'stratopt(1e-3, second_moment="int4")',
    'stratopt(1e-3, readings="centred")',
    "stratify({3: optax.identity()})",
]


@pytest.mark.slow
def test_a_type_checker_takes_good_calls_and_refuses_bad_ones(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    source = GOOD + "\n".join(BAD)
    path = tmp_path / "calls.py"
    path.write_text(source, encoding="utf-8")
    output, _, _ = api.run(["--no-incremental", "--config-file", "pyproject.toml", str(path)])
    found = {int(line.split(":")[1]) for line in output.splitlines() if ": error: " in line}
    first = GOOD.count("\n") + 1
    assert found == set(range(first, first + len(BAD))), output
