"""Numbers whose squares are beyond float32, above 1.8e19, have norms all the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_strat import (
    Layers,
    SkipNonfiniteState,
    StratoptReadings,
    aardvark,
    clip_by_layer_norm,
    find_states,
    norms_by_layer_type,
    scale_by_aardvark,
    skip_counts,
    skip_nonfinite,
    stratify,
    stratopt,
)
from optax_strat import _sums as sums
from tests.support import fast, trees
from tests.support.versions import enable_x64

HUGE = [1e20, 1e25, 1e36]


def spiked(size: float) -> dict[str, Any]:
    """A model's gradients with one layer's times a large number."""
    g = trees.model(seed=1)
    g["head"]["kernel"] = g["head"]["kernel"] * size
    return g


def norm(x: Any) -> float:
    return float(np.linalg.norm(np.asarray(x, np.complex128).ravel()))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "complex64"])
@pytest.mark.parametrize("size", HUGE)
def test_a_layer_of_any_size_is_clipped_to_the_threshold(size: float, dtype: str) -> None:
    g = {"mlp": jnp.full((8, 4), size, dtype), "head": jnp.full(3, 0.1, dtype)}
    if dtype == "complex64":
        g["mlp"] = g["mlp"] * 1j
    clipped, _ = clip_by_layer_norm(1.0).update(g, optax.EmptyState())
    np.testing.assert_allclose(
        norm(clipped["mlp"]), 1.0, rtol=5e-3 if dtype == "bfloat16" else 1e-5
    )
    np.testing.assert_array_equal(clipped["head"], g["head"])
    assert clipped["mlp"].dtype == dtype


def test_in_float64_too() -> None:
    with enable_x64(True):
        g = {"mlp": jnp.full((8, 4), 1e25, jnp.float64)}
        clipped, _ = clip_by_layer_norm(1.0).update(g, optax.EmptyState())
        assert clipped["mlp"].dtype == jnp.float64
        np.testing.assert_allclose(norm(clipped["mlp"]), 1.0, rtol=1e-6)


@pytest.mark.parametrize("stratum", ["layer", "block", "type"])
def test_whatever_is_clipped_together(stratum: Any) -> None:
    g = {"layers_0": {"mlp": {"up": jnp.full((2, 2), 1e25), "down": jnp.full((2, 2), 1e24)}}}
    clipped, _ = clip_by_layer_norm(1.0, stratum=stratum).update(g, optax.EmptyState())
    together = [norm(x) for x in jax.tree.leaves(clipped)]
    expected = [1.0, 1.0] if stratum == "layer" else [0.1 / 1.01**0.5, 1 / 1.01**0.5]
    np.testing.assert_allclose(together, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", fast(["bfloat16", "float32"], "float32"))
@pytest.mark.parametrize("size", fast([*HUGE, 1e38], 1e38))
def test_stratifys_clip_by_the_norm_of_everything_is_right_for_any_size(
    size: float, dtype: str
) -> None:
    layers = {f"mlp_{index}": jnp.full((2, 2), size / 10, dtype) for index in range(50)}
    g = {"head": jnp.full((8, 4), size / 10, dtype), **layers}
    tx = stratify({".*": 1.0}, clip=1.0)
    clipped, _ = jax.jit(tx.update)(g, tx.init(g), g)
    together = norm([norm(x) for x in jax.tree.leaves(clipped)])
    expected = min(1.0, 1e38 / size)  # larger norms than 8.5e37 count as that
    assert 0.99 * expected < together < 2.0
    if size < 1e37:
        np.testing.assert_allclose(together, 1.0, rtol=5e-3 if dtype == "bfloat16" else 1e-5)
    assert all(u.dtype == dtype for u in jax.tree.leaves(clipped))


@pytest.mark.parametrize("size", HUGE)
@pytest.mark.parametrize(
    "reference", fast(["ema", "running_mean", "layer_mean", "global_ema"], "ema")
)
def test_after_a_spike_stratopts_second_moment_is_that_of_the_clipped_gradient(
    size: float, reference: Any
) -> None:
    tx, g = stratopt(0.1, reference=reference), spiked(size)
    params = trees.model()
    updates, state = jax.jit(tx.update)(g, tx.init(params), params)
    head = np.asarray(g["head"]["kernel"], np.float64)
    clipped = head / np.linalg.norm(head)
    np.testing.assert_allclose(state[0].nu["head"]["kernel"], 1e-3 * clipped**2, rtol=1e-4)
    np.testing.assert_allclose(state[0].gbar, 1.0, rtol=1e-5)  # all layers are clipped to 1
    assert all(bool(jnp.isfinite(u).all()) for u in jax.tree.leaves(updates))


@pytest.mark.parametrize("clip_mode", ["global_norm", "per_tensor"])
@pytest.mark.parametrize("size", HUGE)
def test_aardvarks_clip_makes_the_same_of_gradients_that_differ_in_size_alone(
    size: float, clip_mode: Any
) -> None:
    tx = scale_by_aardvark(clip_mode=clip_mode)
    g = jax.tree.map(lambda x: 10 * x, trees.model(seed=1))
    large = jax.tree.map(lambda x: x * (size / 10), g)
    directions = [jax.jit(tx.update)(each, tx.init(g))[1].nu for each in (g, large)]
    for small, found in zip(*map(jax.tree.leaves, directions), strict=True):
        np.testing.assert_allclose(found, small, rtol=1e-4)


def test_the_guard_still_takes_a_gradient_whose_square_overflows_for_not_finite() -> None:
    tx, params = aardvark(0.1), trees.model()
    _, state = jax.jit(tx.update)(spiked(1e25), tx.init(params), params)
    assert skip_counts(state) == (1, 1)
    (guard,) = find_states(state, SkipNonfiniteState)
    assert all(not x.any() for x in jax.tree.leaves(guard.inner_state[0][0].mu))


def test_around_an_optimizer_that_clips_the_guard_can_stand_behind_the_clip() -> None:
    tx = optax.chain(clip_by_layer_norm(1.0), skip_nonfinite(optax.adam(0.1)))
    params = trees.model()
    updates, state = jax.jit(tx.update)(spiked(1e25), tx.init(params), params)
    assert skip_counts(state) == (0, 0)
    assert all(bool(jnp.isfinite(u).all()) for u in jax.tree.leaves(updates))


@pytest.mark.parametrize("reduce", ["joint", "mean"])
def test_norms_by_layer_type_are_right_and_infinite_only_where_a_number_is(reduce: Any) -> None:
    g = {"mlp": jnp.full((2, 2), 1e25), "head": jnp.array([jnp.inf, 1.0]), "embed": jnp.ones(4)}
    norms = norms_by_layer_type(g, reduce=reduce)
    np.testing.assert_allclose(norms["mlp"], 2e25, rtol=1e-6)
    np.testing.assert_allclose(norms["embedding"], 2.0, rtol=1e-6)
    assert bool(jnp.isposinf(norms["head"]))
    assert bool(jnp.isnan(norms_by_layer_type({"mlp": jnp.array([jnp.nan])})["mlp"]))


@pytest.mark.parametrize("reference", ["layer_mean", "global_ema"])
def test_the_mean_of_the_largest_norms_does_not_overflow(reference: Any) -> None:
    params = {f"mlp_{index}": jnp.ones((2, 2)) for index in range(50)}
    tx = stratopt(0.1, reference=reference, layer_clip=None, readings=StratoptReadings())
    g = jax.tree.map(lambda x: x * 1e38, params)
    _, state = tx.update(g, tx.init(params), params)
    assert bool(jnp.isfinite(state[0].gbar).all())
    assert bool(jnp.isfinite(state[0].alpha).all())


def test_an_infinite_layer_leaves_the_reference_norms_of_the_others_finite() -> None:
    params = {"mlp": jnp.ones((2, 2)), "head": jnp.ones(3)}
    tx = stratopt(0.1, reference="global_ema", layer_clip=None)
    g = {**params, "head": jnp.array([jnp.inf, 1.0, 1.0])}
    _, state = tx.update(g, tx.init(params), params)
    assert bool(jnp.isfinite(state[0].gbar).all())


@pytest.mark.parametrize("jitted", fast([False, True], True))
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
@pytest.mark.parametrize("size", [0.0, 1e-3, 6e4, 1e25, 5e29, np.inf, np.nan])
def test_accelerators_and_cpus_find_the_same_norms(size: float, dtype: str, jitted: bool) -> None:
    """The two ways of adding up squares, of which a platform takes one."""
    if dtype == "float16" and np.isfinite(size):
        size = min(size, 65504.0)
    shapes = {"scalar": (), "one": (1,), "layers": (2, 8, 4), "head": (3, 5)}
    tree = {name: jnp.full(shape, size, dtype) for name, shape in shapes.items()}
    leaves = Layers(stacked=["layers"]).layout(tree)
    entry = np.abs(np.asarray(tree["scalar"], np.complex128))
    for way in (sums._in_one_pass, sums._again_if_needed):
        found = lambda tree, way=way: sums.roots(way(tree, leaves, None))  # noqa: E731
        expected = [entry * count**0.5 for count in (15, 32, 32, 1, 1)]
        np.testing.assert_allclose((jax.jit(found) if jitted else found)(tree), expected, rtol=1e-6)


@pytest.mark.parametrize("jitted", [False, True])
def test_norms_of_large_norms_are_right_too(jitted: bool) -> None:
    joint = jax.jit(sums.joint_norm) if jitted else sums.joint_norm
    for norms in ([5e29], [3e25, 4e25], [3e-5, 4e-5], [0.0, 0.0]):
        np.testing.assert_allclose(joint(jnp.array(norms)), np.linalg.norm(norms), rtol=1e-6)
