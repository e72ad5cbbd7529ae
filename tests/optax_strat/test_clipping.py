"""Clipping each layer by its own norm."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optax_strat import ClipToParameters, ClipToReference, Layers, clip_by_layer_norm
from tests.support import trees


def clip(tx: optax.GradientTransformation, tree: Any, params: Any = None) -> Any:
    return tx.update(tree, tx.init(tree), params)[0]


def test_only_layers_above_the_threshold_shrink_to_it() -> None:
    tree = {"layers": {"mlp": jnp.array([[0.3, 0.4], [3.0, 4.0]])}, "head": jnp.array([6.0, 8.0])}
    clipped = clip(clip_by_layer_norm(1.0, layers=Layers(stacked=["layers"])), tree)
    np.testing.assert_allclose(clipped["layers"]["mlp"], [[0.3, 0.4], [0.6, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(clipped["head"], [0.6, 0.8], rtol=1e-6)


def test_one_layers_explosion_leaves_the_others_alone() -> None:
    """What tells it from a global clip."""
    tree = {"head": jnp.full(4, 1e6), "mlp": jnp.full(4, 0.1)}
    assert float(clip(optax.clip_by_global_norm(1.0), tree)["mlp"][0]) < 1e-6
    np.testing.assert_array_equal(clip(clip_by_layer_norm(1.0), tree)["mlp"], tree["mlp"])


def test_thresholds_by_type_leave_other_types_alone() -> None:
    tree = {"head": jnp.array([3.0, 4.0]), "mlp": jnp.array([3.0, 4.0])}
    clipped = clip(clip_by_layer_norm({"mlp": 2.5}), tree)
    np.testing.assert_allclose(clipped["mlp"], [1.5, 2.0], rtol=1e-6)
    np.testing.assert_array_equal(clipped["head"], [3.0, 4.0])


def test_a_threshold_may_be_a_tracer() -> None:
    tree = {"head": jnp.array([3.0, 4.0]), "mlp": jnp.array([3.0, 4.0])}
    clipped = jax.jit(lambda limit: clip(clip_by_layer_norm({"mlp": limit}), tree))(2.5)
    np.testing.assert_allclose(clipped["mlp"], [1.5, 2.0], rtol=1e-6)
    np.testing.assert_array_equal(clipped["head"], [3.0, 4.0])


def test_none_clips_nothing() -> None:
    tree = trees.model()
    chex.assert_trees_all_equal(clip(clip_by_layer_norm(None), tree), tree)


@pytest.mark.parametrize(("stratum", "norm"), [("block", math.sqrt(50)), ("type", math.sqrt(50))])
def test_strata_are_clipped_together(stratum: Any, norm: float) -> None:
    block = {"layers_0": {"mlp": jnp.array([3.0, 4.0]), "mlp_2": jnp.array([3.0, 4.0])}}
    clipped = clip(clip_by_layer_norm(1.0, stratum=stratum), block)
    np.testing.assert_allclose(clipped["layers_0"]["mlp"], [3 / norm, 4 / norm], rtol=1e-6)


def test_a_share_of_the_parameters_norm_limits_the_gradient() -> None:
    g = {"mlp": jnp.array([3.0, 4.0]), "head": jnp.array([3.0, 4.0])}
    params = {"mlp": jnp.array([30.0, 40.0]), "head": jnp.zeros(2)}
    clipped = clip(clip_by_layer_norm(ClipToParameters(0.01, minimum=0.1)), g, params)
    np.testing.assert_allclose(clipped["mlp"], [0.3, 0.4], rtol=1e-6)  # 1 % of 50
    np.testing.assert_allclose(clipped["head"], [6e-4, 8e-4], rtol=1e-6)  # 1 % of the minimum
    with pytest.raises(ValueError, match="pass params to update"):
        clip(clip_by_layer_norm(ClipToParameters()), g)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=1, max_size=5),
    st.floats(1e-3, 1e3),
)
def test_no_norm_is_above_the_threshold_and_no_direction_changes(
    values: list[float], limit: float
) -> None:
    tree = [jnp.asarray(values, jnp.float32)]
    (clipped,) = clip(clip_by_layer_norm(limit), tree)
    norm = float(jnp.linalg.norm(tree[0]))
    assert float(jnp.linalg.norm(clipped)) <= limit * (1 + 1e-5)
    expected = np.asarray(tree[0], np.float64) * min(1.0, limit / norm if norm else 1.0)
    np.testing.assert_allclose(clipped, expected, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_clipped_in_float32(dtype: Any) -> None:
    """The factor 1e-8 is no float16 and the norm of 1e5 is none, but the clipped entries are."""
    (clipped,) = clip(clip_by_layer_norm(1e-3), [jnp.full(4, 5e4, dtype)])
    assert clipped.dtype == dtype
    np.testing.assert_allclose(np.asarray(clipped, np.float32), 5e-4, rtol=1e-2)


def test_it_has_no_state_and_passes_extra_arguments_by() -> None:
    tx = clip_by_layer_norm(1.0)
    assert not jax.tree.leaves(tx.init(trees.model()))
    tx.update([jnp.ones(1)], tx.init([jnp.ones(1)]), value=1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_norm": 0.0}, "max_norm must be a finite number above 0, but it is 0.0"),
        ({"max_norm": math.inf}, "max_norm"),
        ({"max_norm": "1"}, "max_norm must be a number above 0"),
        ({"max_norm": {"dense": 1.0}}, "unknown layer type 'dense'"),
        ({"max_norm": {"mlp": -1.0}}, r"max_norm\['mlp'\]"),
        ({"max_norm": {"mlp": None}}, r"max_norm\['mlp'\] must be a number, but it is None"),
        ({"max_norm": {"mlp": 1.0}, "stratum": "block"}, "whose blocks span several types"),
        ({"max_norm": 1.0, "stratum": "tensor"}, "stratum must be one of 'layer', 'block', 'type'"),
        ({"max_norm": ClipToReference()}, "only stratopt has a reference"),
    ],
)
def test_bad_arguments_are_refused_with_one_sentence(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        clip_by_layer_norm(**arguments)
