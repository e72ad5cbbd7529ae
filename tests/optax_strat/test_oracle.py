"""Both optimizers, with every option, against plain float64 NumPy over many steps."""

from typing import Any

import chex
import jax
import numpy as np
import optax
import pytest

from optax_strat import ClipToParameters, ClipToReference, StratoptReadings, aardvark, stratopt
from tests.support import oracles, trees
from tests.support.versions import enable_x64

STEPS = 24
RATE = 3e-3
OFF = {"scale_bounds": None, "weight_decay": 0.0}

STRATOPT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # name: (arguments of the library, arguments of the oracle)
    "default": ({}, {}),
    "literal": ({**OFF, "layer_clip": None}, {**OFF, "clip": None}),
    "layer_mean": ({"reference": "layer_mean"},) * 2,
    "running_mean": ({"reference": "running_mean"},) * 2,
    "global_ema": (
        {"reference": "global_ema", "readings": StratoptReadings(reference_decay=0.9)},
        {"reference": "global_ema", "reference_decay": 0.9},
    ),
    "bias_correction": ({"bias_correction": True},) * 2,
    "mixing": ({"readings": StratoptReadings(gradient_mixing=0.3)}, {"gradient_mixing": 0.3}),
    "adjustment": (
        {"readings": StratoptReadings(momentum_adjustment=0.08)},
        {"momentum_adjustment": 0.08},
    ),
    "adjustment, corrected": (
        {"readings": StratoptReadings(momentum_adjustment=0.08), "bias_correction": True},
        {"momentum_adjustment": 0.08, "bias_correction": True},
    ),
    "centred": ({"readings": StratoptReadings(centred=True)}, {"centred": True}),
    "no first moment": ({"b1": 0.0},) * 2,
    "clip_by_type": ({"layer_clip": {"mlp": 0.1, "head": 3}}, {"clip": {"mlp": 0.1, "head": 3}}),
    "clip_to_reference": ({"layer_clip": ClipToReference(1.1)}, {"clip": ("reference", 1.1)}),
    "clip_to_parameters": ({"layer_clip": ClipToParameters(0.02)}, {"clip": ("parameters", 0.02)}),
    "block": (
        {"readings": StratoptReadings(stratum="block", gradient_mixing=0.3)},
        {"stratum": oracles.block_of, "gradient_mixing": 0.3},
    ),
    "type": ({"readings": StratoptReadings(stratum="type")}, {"stratum": oracles.type_of}),
}

AARDVARK: dict[str, dict[str, Any]] = {
    "default": {},
    "literal": {"clip_mode": "elementwise", "weight_decay": 0.0},
    "no_clip": {"clip": None},
    "per_tensor": {"clip_mode": "per_tensor", "clip": 0.3},
    "multipliers": {"multipliers": {"mlp": 0.5, "attention": 3.0}},
    "normalized": {"scaling": "normalized"},
    "adaptive": {"scaling": "adaptive"},
    "base_decay": {"decay_rate": "base"},
}


def run(tx: optax.GradientTransformation) -> tuple[Any, Any]:
    """The parameters and the state after all steps, in float64."""
    params = trees.model(np.float64)

    def step(carry: tuple[Any, Any], g: Any) -> tuple[tuple[Any, Any], None]:
        params, state = carry
        updates, state = tx.update(g, state, params)
        return (optax.apply_updates(params, updates), state), None

    scan = jax.jit(lambda *args: jax.lax.scan(step, *args)[0])
    return scan((params, tx.init(params)), trees.gradients(params, STEPS))


def run_oracle(oracle: Any) -> Any:
    params = trees.model(np.float64)
    grads = trees.gradients(params, STEPS)
    for i in range(STEPS):
        oracle.step(trees.by_path(trees.unstack(jax.tree.map(lambda g, i=i: g[i], grads))))
    return oracle


def as_arrays(tree: Any) -> dict[str, np.ndarray]:
    return trees.by_path(trees.unstack(tree))


@pytest.mark.parametrize("name", STRATOPT)
def test_stratopt_equals_the_oracle(name: str) -> None:
    ours, theirs = STRATOPT[name]
    with enable_x64(True):
        params, state = run(stratopt(RATE, **ours))
        oracle = run_oracle(oracles.StratOpt(as_arrays(trees.model(np.float64)), RATE, **theirs))
        chex.assert_trees_all_close(as_arrays(params), oracle.params, rtol=1e-6, atol=1e-7)
        if state[0].mu is not None:
            chex.assert_trees_all_close(as_arrays(state[0].mu), oracle.m, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(sorted(state[0].alpha), sorted(oracle.alpha.values()), rtol=1e-5)
    np.testing.assert_allclose(sorted(state[0].gbar), sorted(oracle.gbar.values()), rtol=1e-5)


@pytest.mark.parametrize("name", AARDVARK)
def test_aardvark_equals_the_oracle(name: str) -> None:
    arguments = AARDVARK[name]
    with enable_x64(True):
        params, _ = run(aardvark(RATE, **arguments))
        start = as_arrays(trees.model(np.float64))
        chosen = oracles.Aardvark(start, RATE).multipliers | arguments.get("multipliers", {})
        oracle = oracles.Aardvark(start, RATE, **{**arguments, "multipliers": chosen})
        chex.assert_trees_all_close(
            as_arrays(params), run_oracle(oracle).params, rtol=1e-6, atol=1e-7
        )
