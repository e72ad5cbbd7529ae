"""What holds for any tree of parameters and any gradients, not for the usual alone."""

import functools
import warnings
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from optax_strat import (
    Layers,
    ScaleByStratoptState,
    decays,
    find_states,
    layer_types,
    stratopt,
    warmup_cosine,
)
from tests.support.optimizers import TABLE, TYPES

pytestmark = pytest.mark.faults

fractions = st.floats(0, 1)
rates = st.floats(1e-12, 1e3)

# --- labels and masks

names = st.sampled_from(
    ["embed", "layers", "attention", "query", "mlp", "up", "norm", "head", "adapter", "kernel",
     "bias", "scale", "0", "1", "x/y", "Kernel", ""]
)  # fmt: skip
shapes = st.lists(st.integers(0, 3), max_size=4).map(tuple)
leaves = shapes.map(lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32))
trees = st.recursive(
    leaves,
    lambda inner: st.dictionaries(names, inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=8,
)


OTHER = Layers(unmatched="other", stacked=())


@given(trees)
def test_a_tree_that_can_be_read_in_two_ways_is_refused_and_every_other_has_one_layout(
    tree: Any,
) -> None:
    with warnings.catch_warnings(action="ignore"):
        try:
            leaves = Layers().layout(tree)
        except ValueError as error:
            assert "stacked=()" in str(error)  # noqa: PT017
            return
    assert len(leaves) == len(jax.tree.leaves(tree))
    for leaf, x in zip(leaves, jax.tree.leaves(tree), strict=True):
        assert leaf.count == (1 if leaf.axis is None else x.shape[leaf.axis])


@given(trees)
def test_every_leaf_of_any_tree_has_one_type_and_decays_or_not(tree: Any) -> None:
    labels, mask = layer_types(tree, OTHER), decays(tree, OTHER)
    assert jax.tree.structure(labels) == jax.tree.structure(mask) == jax.tree.structure(tree)
    assert set(jax.tree.leaves(labels)) <= set(TYPES)
    assert all(isinstance(leaf, bool) for leaf in jax.tree.leaves(mask))
    for leaf, decaying in zip(jax.tree.leaves(tree), jax.tree.leaves(mask), strict=True):
        assert leaf.ndim >= 2 or not decaying


@given(trees, st.randoms(use_true_random=False))
def test_the_order_of_a_dict_changes_no_label(tree: Any, draw: Any) -> None:
    other = shuffled(tree, draw)
    assert layer_types(other, OTHER) == layer_types(tree, OTHER)
    assert decays(other, OTHER) == decays(tree, OTHER)


def shuffled(tree: Any, draw: Any) -> Any:
    if isinstance(tree, dict):
        items = [(key, shuffled(item, draw)) for key, item in tree.items()]
        draw.shuffle(items)
        return dict(items)
    return [shuffled(item, draw) for item in tree] if isinstance(tree, list) else tree


# --- optimizers


@settings(max_examples=2, phases=[Phase.generate])  # each example compiles
@given(
    layers=st.integers(1, 4),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    seed=st.integers(0, 2**31),
)
@pytest.mark.parametrize("name", ["stratopt, by block", "aardvark, adaptive"])
def test_any_stack_of_layers_takes_the_steps_of_a_list(
    name: str, layers: int, shape: list[int], seed: int
) -> None:
    draw = np.random.default_rng(seed)
    stack = jnp.asarray(draw.normal(size=(layers, *shape)), jnp.float32)
    embedding = {"embed": jnp.asarray(draw.normal(size=(4, 3)), jnp.float32)}

    def step(params: Any, *stacked: str) -> Any:
        tx = TABLE[name](1e-2, layers=Layers(stacked=stacked))
        grads = jax.tree.map(jnp.sin, params)
        return jax.jit(tx.update)(grads, tx.init(params), params)[0]

    stacked = step(embedding | {"layers": {"mlp": {"kernel": stack}}}, "layers")
    listed = step(embedding | {"layers": [{"mlp": {"kernel": x}} for x in stack]})
    rows = jnp.stack([layer["mlp"]["kernel"] for layer in listed["layers"]])
    found = stacked["layers"]["mlp"]["kernel"], stacked["embed"]
    chex.assert_trees_all_close(found, (rows, listed["embed"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["stratopt, by block", "aardvark, adaptive"])
@pytest.mark.filterwarnings("ignore:No parameter is an output head")
def test_a_tree_of_nothing_is_left_as_it_is(name: str) -> None:
    tx = TABLE[name](1e-2)
    updates, _ = tx.update({}, tx.init({}), {})
    assert updates == {}


STEPS = 4


@functools.cache
def alphas_of(low: float, high: float) -> Any:
    """The scales of three layers after each of some steps with gradients of given sizes."""
    params = {"embed": jnp.ones((2, 2)), "mlp": jnp.ones((2, 2)), "norm": jnp.ones(3)}
    tx = stratopt(1e-2, scale_bounds=(low, high))

    def step(state: Any, sizes: Any) -> Any:
        grads = {key: size * params[key] for key, size in zip(params, sizes, strict=True)}
        state = tx.update(grads, state, params)[1]
        (found,) = find_states(state, ScaleByStratoptState)
        return state, found.alpha

    return jax.jit(lambda sizes: jax.lax.scan(step, tx.init(params), sizes)[1])


@given(
    bounds=st.sampled_from([(0.1, 10.0), (1.0, 1.0), (0.5, 2.0)]),
    sizes=hnp.arrays(np.float32, (STEPS, 3), elements=st.floats(-1e9, 1e9, width=32)),
)
def test_the_scale_of_a_layer_stays_within_its_bounds(bounds: Any, sizes: Any) -> None:
    found = np.asarray(alphas_of(*bounds)(sizes))
    assert found.shape == (STEPS, 3)
    low, high = np.float32(bounds)
    assert ((low <= found) & (found <= high)).all()


# --- schedules


@settings(max_examples=12)
@given(peak=rates, steps=st.integers(2, 10**5), share=fractions, final=fractions)
def test_warmup_cosine_is_such_a_schedule(
    peak: float, steps: int, share: float, final: float
) -> None:
    warmup = int(share * (steps - 1))
    schedule = warmup_cosine(peak, steps, warmup_steps=warmup, final_fraction=final)
    check_schedule(schedule, peak, warmup, steps, final)


def check_schedule(schedule: Any, peak: float, warmup: int, steps: int, final: float) -> None:
    """At the places where its shape changes, some between, and far behind the end."""
    between = np.linspace(0, steps, 9).astype(np.int64)
    corners = [0, 1, warmup - 1, warmup, warmup + 1, steps - 1, steps, steps + 1, 2**31 - 1]
    at = np.sort(np.maximum([*between, *corners], 0)).astype(np.int32)
    found = np.asarray(schedule(at), np.float64) / peak
    slack = 1e-5
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert (found <= 1 + slack).all()
    rising, falling = found[at < warmup], found[at >= warmup]
    assert (np.diff(rising) >= -slack).all()
    assert (np.diff(falling) <= slack).all()
    np.testing.assert_allclose(found[at > max(steps, warmup)], final, atol=slack)
    if 0 < warmup < steps:
        np.testing.assert_allclose(found[at == warmup], 1.0, atol=slack)
    steepest = max(1 / max(warmup, 1), 2 / max(steps - warmup, 1))
    neighbours = np.diff(at) == 1
    assert (np.abs(np.diff(found))[neighbours] <= steepest + slack).all()
