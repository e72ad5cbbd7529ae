"""Parameters from other people's libraries get the layer types, layers and decay that they should.

The tables in tests/golden are what `describe` prints;
`python -m tests.support.libraries` rewrites them.
"""

from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

from optax_strat import (
    DEFAULT_RULES,
    Layers,
    StratoptReadings,
    aardvark,
    decays,
    describe,
    layer_types,
    scale_by_muon,
    strata_names,
    stratify,
    stratopt,
)
from tests.support import fast, libraries
from tests.support.checkpoints import CHECKPOINTS, LAYERS
from tests.support.libraries import GOLDEN, LAYERS_OF, LIBRARIES

every_library = pytest.mark.parametrize("name", LIBRARIES)
STACKED = [name for name in LIBRARIES if name.endswith(("scanned", "stack", "stacked"))]


@every_library
def test_golden_tables(name: str) -> None:
    assert libraries.table(name) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_every_golden_table_belongs_to_a_library() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(LIBRARIES)


@every_library
def test_norms_biases_and_vectors_never_decay_and_matrices_do(name: str) -> None:
    tree = LIBRARIES[name]()
    for row in describe(tree, layers=LAYERS_OF.get(name, Layers())).rows:
        *around, own = row.path.split("/")
        is_bias = own in ("bias", "b", "offset", "scale")
        is_norm = any("norm" in part or part.startswith("ln_") for part in around)
        is_stacked = len(row.shape) > 0 and row.layers == LAYERS
        assert row.decay == (not (is_bias or is_norm) and len(row.shape) - is_stacked >= 2)


@pytest.mark.parametrize("name", [*STACKED, "maxtext", "maxtext_moe"])
def test_every_slice_of_a_stack_is_a_layer(name: str) -> None:
    tree = LIBRARIES[name]()
    stacked = [row for row in describe(tree).rows if "layer" in row.path or "blocks" in row.path]
    inside = [row for row in stacked if not row.path.startswith("layer_norm")]  # Haiku's last one
    assert inside
    assert all(row.layers == LAYERS for row in inside)
    names = strata_names(tree)
    assert f"{inside[0].path}[{LAYERS - 1}]" in names
    assert len(names) == sum(row.layers for row in describe(tree).rows)


@pytest.mark.parametrize(
    ("stacked", "unstacked"),
    [("equinox_stacked", "equinox"), ("haiku_layer_stack", "haiku")],
)
def test_stacked_and_unstacked_models_have_as_much_of_each_type(
    stacked: str, unstacked: str
) -> None:
    def totals(name: str) -> dict[tuple[str, bool], list[float]]:
        found: dict[tuple[str, bool], list[float]] = {}
        for row in describe(LIBRARIES[name]()).rows:
            total = found.setdefault((row.type, row.decay), [0.0, 0.0])
            total[0] += row.layers
            total[1] += row.share
        return {key: [layers, round(share, 6)] for key, (layers, share) in found.items()}

    assert totals(stacked) == totals(unstacked)


@pytest.mark.parametrize("name", fast(LIBRARIES, "flax_nnx_scanned", "hf_llama", "maxtext"))
def test_the_optimizers_take_the_parameters_and_keep_their_structure(name: str) -> None:
    params = LIBRARIES[name]()
    rules = LAYERS_OF.get(name, Layers()).rules
    layers = Layers(rules=(("inv_freq|sinks|mixer/(d|a_log)|conv1d", "vector"), *rules))
    optimizers = [
        stratopt(1e-2, layers=layers, readings=StratoptReadings(stratum="type")),
        stratify(
            {("attention", "mlp"): scale_by_muon(), ".*": optax.scale_by_adam()},
            layers,
            learning_rate=1e-2,
            weight_decay=0.1,
        ),
    ]
    for tx in optimizers:
        state = jax.eval_shape(tx.init, params)
        updates, after = jax.eval_shape(tx.update, params, state, params)
        assert jax.tree.structure(updates) == jax.tree.structure(params)
        assert [u.shape for u in jax.tree.leaves(updates)] == [
            p.shape for p in jax.tree.leaves(params)
        ]
        assert jax.tree.structure(after) == jax.tree.structure(state)


def test_equinox_modules_train() -> None:
    class Tiny(eqx.Module):
        head: eqx.nn.Linear
        activation: Any

    model = Tiny(eqx.nn.Linear(3, 2, key=jax.random.key(0)), jax.nn.tanh)
    params, static = eqx.partition(model, eqx.is_array)
    tx = aardvark(1e-2, multipliers={"head": 1.0}, weight_decay=0.0)
    gradients = jax.tree.map(jnp.ones_like, params)
    updates, _ = tx.update(gradients, tx.init(params), params)
    moved = eqx.combine(eqx.apply_updates(params, updates), static)
    assert moved.activation is jax.nn.tanh
    chex.assert_trees_all_close(moved.head.weight, model.head.weight - 1e-2, rtol=1e-5)
    chex.assert_trees_all_close(moved.head.bias, model.head.bias - 1e-2, rtol=1e-5)


def test_one_line_teaches_what_the_names_of_haikus_linears_do_not_tell() -> None:
    params = {f"transformer/linear{suffix}": {"w": jnp.ones((2, 2))} for suffix in ("", "_1", "_2")}
    with pytest.raises(ValueError, match="No rule") as error:
        layer_types(params)
    message = str(error.value)
    assert "transformer/linear/w\n  transformer/linear_1..2/w\n" in message
    line = r"Layers(rules=(*DEFAULT_RULES, (r'linear(_?\d+)?', 'linear')))"
    assert f"layers={line}" in message
    labels = layer_types(params, eval(line, {"DEFAULT_RULES": DEFAULT_RULES, "Layers": Layers}))
    assert set(jax.tree.leaves(labels)) == {"linear"}


@pytest.mark.filterwarnings("ignore:No parameter is an output head")
def test_unknown_architectures_are_refused_with_a_short_list() -> None:
    with pytest.raises(ValueError, match="No rule") as error:
        aardvark(1e-2).init(CHECKPOINTS["mamba"])
    message = str(error.value)
    assert "backbone/layers/0..2/mixer/in_proj/weight" in message
    assert message.count("\n") < 10
    assert any(jax.tree.leaves(decays(CHECKPOINTS["mamba"])))  # but a mask needs no types
