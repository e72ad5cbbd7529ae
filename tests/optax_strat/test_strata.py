"""Where the layers are in a tree, and what is known of each."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from optax_strat import Layers, decays, norms_by_layer_type, strata_names
from optax_strat._strata import strata
from optax_strat._sums import global_norm, squares
from tests.support import trees


def test_entries_are_named_in_the_order_of_the_vector() -> None:
    tree = {
        "embed": np.ones((4, 2)),
        "layers": {"mlp": np.ones((2, 2, 2)), "norm": np.ones((2, 2))},
    }
    assert strata_names(tree) == (
        "embed",
        "layers/mlp[0]",
        "layers/mlp[1]",
        "layers/norm[0]",
        "layers/norm[1]",
    )
    assert strata_names(tree, "block") == ("embed", "layers[0]", "layers[1]")
    assert strata_names(tree, "type") == ("embedding", "mlp", "norm")


@pytest.mark.parametrize(
    "tree",
    [
        {"layers": [{"attn": {"q": 1.0, "k": 1.0}, "mlp": 1.0}] * 2, "head": {"kernel": 1.0}},
        {
            "layers_0": {"attn": {"q": 1.0, "k": 1.0}, "mlp": 1.0},
            "layers_1": {"attn": {"q": 1.0, "k": 1.0}, "mlp": 1.0},
            "head": {"kernel": 1.0},
        },
        {"h": {0: {"mlp": 1.0, "attn": 1.0}, 1: {"mlp": 1.0}}, "head": {"kernel": 1.0}},
    ],
)
def test_blocks_of_unstacked_models_are_their_numbered_layers(tree: Any) -> None:
    names = strata_names(tree, "block")
    assert len(names) == 3
    assert "head" in names


@pytest.mark.parametrize("stratum", ["layer", "block", "type"])
def test_norms_are_those_of_numpy(stratum: Any) -> None:
    stacked, unstacked = trees.model(), trees.unstack(trees.model())
    found = strata(stacked, Layers(), stratum).norms(stacked)
    assert found.dtype == jnp.float32
    squares: dict[str, float] = {}
    arrays = trees.by_path(unstacked)
    layout_ = strata(unstacked, Layers(), stratum)
    for entry, x in enumerate(arrays.values()):
        name = layout_.names[entry if layout_.groups is None else layout_.groups[entry]]
        squares[name] = squares.get(name, 0.0) + float(np.sum(x**2))
    np.testing.assert_allclose(sorted(found), sorted(np.sqrt([*squares.values()])), rtol=1e-6)


@pytest.mark.parametrize("stratum", ["layer", "block", "type"])
def test_spread_gives_every_number_back_to_its_own_layers(stratum: Any) -> None:
    tree = trees.model()
    layout_ = strata(tree, Layers(), stratum)
    factors = layout_.spread(1 / layout_.norms(tree), tree)
    scaled = jax.tree.unflatten(
        jax.tree.structure(tree),
        [x * factor for x, factor in zip(jax.tree.leaves(tree), factors, strict=True)],
    )
    np.testing.assert_allclose(layout_.norms(scaled), 1.0, rtol=1e-5)


def test_layers_can_lie_along_another_axis() -> None:
    tree = {"layers": {"mlp": jnp.arange(12.0).reshape(2, 3, 2)}}
    layout_ = strata(tree, Layers(stacked={"layers": 1}))
    np.testing.assert_allclose(
        layout_.norms(tree),
        np.linalg.norm(np.arange(12.0).reshape(2, 3, 2), axis=(0, 2)),
        rtol=1e-6,
    )
    (factor,) = layout_.spread(jnp.arange(3.0), tree)
    assert factor.shape == (1, 3, 1)


def test_norms_are_measured_in_float32() -> None:
    """In float16 a square overflows from 256 on; in bfloat16 a thousand small terms are lost."""
    halves = {"head": jnp.full(4, 300.0, jnp.float16), "mlp": jnp.full(4096, 0.01, jnp.bfloat16)}
    found = strata(halves, Layers()).norms(halves)
    np.testing.assert_allclose(found, [600.0, 64 * float(jnp.bfloat16(0.01))], rtol=1e-5)


def test_complex_scalar_and_empty_leaves_have_norms() -> None:
    tree = [jnp.array([3 + 4j, 0]), jnp.float32(-2.0), jnp.zeros((0, 3)), 7.0]
    np.testing.assert_allclose(strata(tree, Layers()).norms(tree), [5.0, 2.0, 0.0, 7.0])
    assert strata([], Layers()).norms([]).shape == (0,)


floats = st.floats(-1e3, 1e3, width=32)
arrays = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=0, max_dims=3, max_side=4), elements=floats
)


@settings(max_examples=12, deadline=None)
@given(st.lists(arrays, min_size=1, max_size=3), st.integers(1, 3))
def test_squares_of_the_layers_add_up_to_the_global_square(leaves: Any, layers: int) -> None:
    stacked = {f"w{i}": np.stack([x] * layers) for i, x in enumerate(leaves)}
    tree = {"layers": stacked, "rest": leaves}
    expected = np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in jax.tree.leaves(tree)))
    told = Layers(stacked=("layers",))
    np.testing.assert_allclose(global_norm(tree, told), expected, rtol=1e-5, atol=1e-18)
    assert squares(tree, told.layout(tree)).plain.shape == (len(leaves) * (layers + 1),)


def test_norms_by_layer_type_are_joint_or_mean() -> None:
    tree = {"embed": jnp.full(4, 1.0), "layers": {"attn": jnp.array([[[[3.0]]], [[[4.0]]]])}}
    joint = norms_by_layer_type(tree)
    assert {kind: float(x) for kind, x in joint.items()} == {"embedding": 2.0, "attention": 5.0}
    mean = norms_by_layer_type(tree, reduce="mean")
    assert {kind: float(x) for kind, x in mean.items()} == {"embedding": 2.0, "attention": 3.5}
    assert sum(x**2 for x in joint.values()) == pytest.approx(float(optax.tree.norm(tree)) ** 2)


def test_norms_by_layer_type_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="reduce must be one of 'joint', 'mean'"):
        norms_by_layer_type([jnp.ones(1)], reduce="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="adapter"):
        norms_by_layer_type({"adapter": jnp.ones(1)})
    assert [*norms_by_layer_type({"adapter": jnp.ones(1)}, layers=Layers(unmatched="other"))] == [
        "other"
    ]


def test_matrices_decay_whether_stacked_or_not() -> None:
    """A stacked norm has two dimensions and is none; Flax's attention biases have two as well."""
    tree = trees.model()
    tree["layers"]["attention"]["query"]["bias"] = jnp.ones((trees.LAYERS, 2, 4))
    tree["scalar_head"] = jnp.float32(1.0)
    stacked = decays(tree)
    assert stacked["layers"] == {
        "attention_norm": {"scale": False},
        "attention": {"query": {"kernel": True, "bias": False}, "out": {"kernel": True}},
        "mlp": {"up": {"kernel": True}, "down": {"kernel": True}},
    }
    assert stacked["embed"]["embedding"]
    assert stacked["head"]["kernel"]
    assert not stacked["final_norm"]["scale"]
    assert not stacked["scalar_head"]
    assert decays(trees.unstack(tree))["layers"] == [stacked["layers"]] * trees.LAYERS


def test_unnamed_matrices_decay_and_vectors_do_not() -> None:
    assert decays([np.ones((2, 2)), np.ones(2)]) == [True, False]
