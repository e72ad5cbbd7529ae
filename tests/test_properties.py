"""What holds for any configuration, tree of parameters and schedule, not for the usual alone."""

import dataclasses
import functools
import json
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models import TransformerConfig
from optax_strat import (
    ScaleByStratoptState,
    decays,
    find_states,
    layer_types,
    stratopt,
    warmup_cosine,
)
from tests.optimizers import TABLE, TYPES
from train import configs
from train.config import RunConfig, ScheduleConfig, config_hash, first_difference, to_dict
from train.data import DataConfig
from train.optimizer_configs import AdamW, Lion, Muon, StratOpt
from train.options import RunOptions
from train.read_config import run_config
from train.schedules import learning_rate_schedule

pytestmark = pytest.mark.faults

# --- configurations

few = st.integers(1, 10**6)
fractions = st.floats(0, 1)
rates = st.floats(1e-12, 1e3)
texts = st.text(st.characters(exclude_categories=["Cs"]))
optimizers = st.one_of(
    st.builds(kind, learning_rate=rates, weight_decay=fractions)
    for kind in (AdamW, Lion, Muon, StratOpt)
)
run_configs = st.builds(
    RunConfig,
    model=st.builds(
        TransformerConfig,
        vocab_size=few,
        context=st.just(10**6),
        layers=few,
        d_model=st.just(64),
        heads=st.sampled_from([1, 2, 4]),
        d_ff=few,
        tied_head=st.booleans(),
    ),
    data=st.builds(DataConfig, source=texts, text_column=texts, max_documents=st.none() | few),
    schedule=st.builds(ScheduleConfig, warmup_steps=st.just(0), final_fraction=fractions),
    steps=few,
    context=few,
    eval_batches=st.none() | few,
    optimizer=optimizers,
    seed=st.integers(0, 2**63),
)


@given(run_configs)
def test_a_configuration_comes_back_from_json(config: RunConfig) -> None:
    again = run_config(json.loads(json.dumps(to_dict(config))))
    assert again == config
    assert config_hash(again) == config_hash(config)


@given(run_configs, run_configs)
def test_configurations_have_one_hash_only_if_they_are_equal(a: RunConfig, b: RunConfig) -> None:
    differ = first_difference(to_dict(a), to_dict(b)) is not None
    assert differ == (a != b) == (config_hash(a) != config_hash(b))


FLAGS = {
    "seed": st.integers(0, 2**31),
    "steps": st.integers(20, 10**6),
    "batch_size": few,
    "max_consecutive_skips": few,
    "schedule.final_fraction": fractions,
    "mesh.fsdp": few,
    "data.shard_tokens": few,
    "data.text_column": st.sampled_from(["body", "a b", "-", "None", "0"]),
    "model.rope_theta": st.floats(1.0, 1e6),
}
NANO = configs.nano()


@settings(max_examples=6)
@given(name=st.sampled_from(sorted(FLAGS)), data=st.data())
def test_a_flag_reaches_its_setting_and_no_other(name: str, data: st.DataObject) -> None:
    value = data.draw(FLAGS[name])
    flag = f"--{name}={value}".replace("_", "-", name.count("_"))
    options: Any = tyro.cli(RunOptions, args=["nano", flag])
    assert options.config == changed(NANO, name, value)


def changed(config: Any, path: str, value: object) -> Any:
    name, _, rest = path.partition(".")
    new = changed(getattr(config, name), rest, value) if rest else value
    return dataclasses.replace(config, **{name: new})


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


@given(trees)
def test_every_leaf_of_any_tree_has_one_type_and_decays_or_not(tree: Any) -> None:
    labels, mask = layer_types(tree, unmatched="other"), decays(tree)
    assert jax.tree.structure(labels) == jax.tree.structure(mask) == jax.tree.structure(tree)
    assert set(jax.tree.leaves(labels)) <= set(TYPES)
    assert all(isinstance(leaf, bool) for leaf in jax.tree.leaves(mask))
    for leaf, decaying in zip(jax.tree.leaves(tree), jax.tree.leaves(mask), strict=True):
        assert leaf.ndim >= 2 or not decaying


@given(trees, st.randoms(use_true_random=False))
def test_the_order_of_a_dict_changes_no_label(tree: Any, draw: Any) -> None:
    other = shuffled(tree, draw)
    assert layer_types(other, unmatched="other") == layer_types(tree, unmatched="other")
    assert decays(other) == decays(tree)


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
    tx = TABLE[name](1e-2)
    draw = np.random.default_rng(seed)
    stack = jnp.asarray(draw.normal(size=(layers, *shape)), jnp.float32)
    embedding = {"embed": jnp.asarray(draw.normal(size=(4, 3)), jnp.float32)}

    def step(params: Any) -> Any:
        grads = jax.tree.map(jnp.sin, params)
        return tx.update(grads, tx.init(params), params)[0]

    stacked = jax.jit(step)(embedding | {"layers": {"mlp": {"kernel": stack}}})
    listed = jax.jit(step)(embedding | {"layers": [{"mlp": {"kernel": x}} for x in stack]})
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

decay_shapes = st.sampled_from(["cosine", "linear", "constant"])


@settings(max_examples=12)
@given(
    peak=rates,
    steps=st.integers(1, 10**5),
    share=fractions,
    decay=decay_shapes,
    final=fractions,
)
def test_a_rate_rises_to_its_peak_and_falls_to_its_fraction_of_it(
    peak: float, steps: int, share: float, decay: Any, final: float
) -> None:
    warmup = int(share * steps)
    schedule = learning_rate_schedule(peak, ScheduleConfig(warmup, decay, final), steps)
    check_schedule(schedule, peak, warmup, steps, 1.0 if decay == "constant" else final)


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
