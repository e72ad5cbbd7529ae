"""The table of optimizers: each method as its paper or Optax has it, on equal terms."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import optax_strat
from tests.support import tiny
from train.config.run import ScheduleConfig
from train.optimizers import LAMB, Adafactor, AdamW, AdEMAMix, Lion, Muon
from train.step.optimizer import build_optimizer

STEPS = 10
FLAT = ScheduleConfig(warmup_steps=0, decay="constant")


def build(config, schedule=FLAT):
    return build_optimizer(config, schedule, STEPS).transformation


@pytest.fixture(scope="module")
def params():
    return tiny.params()


def updates_of(tx, params, count=4):
    """The updates of several steps on the same gradients, whatever the tree's layout."""
    state, update, seen = tx.init(params), jax.jit(tx.update), []
    for seed in range(count):
        updates, state = update(tiny.gradients(seed), state, params)
        seen.append(updates)
    return seen


@pytest.mark.parametrize("config", tiny.OPTIMIZERS, ids=tiny.optimizer_name)
def test_a_nonfinite_gradient_changes_no_parameter_and_is_counted(config, params):
    tx = build(config)
    update = jax.jit(tx.update)
    _, state = update(tiny.gradients(0), tx.init(params), params)
    broken = tiny.gradients(1)
    broken["embed"]["embedding"] = broken["embed"]["embedding"].at[0, 0].set(jnp.nan)
    updates, after = update(broken, state, params)
    chex.assert_trees_all_equal(optax.apply_updates(params, updates), params)
    (before_guard,) = optax_strat.find_states(state, optax_strat.SkipNonfiniteState)
    (guard,) = optax_strat.find_states(after, optax_strat.SkipNonfiniteState)
    assert (int(guard.total), int(guard.consecutive)) == (1, 1)
    chex.assert_trees_all_equal(guard.inner_state, before_guard.inner_state)


@pytest.mark.parametrize("config", tiny.OPTIMIZERS, ids=tiny.optimizer_name)
def test_decay_moves_matrices_alone(config, params):
    with_decay = updates_of(build(dataclasses.replace(config, weight_decay=0.5)), params, 1)[0]
    without = updates_of(build(dataclasses.replace(config, weight_decay=0.0)), params, 1)[0]
    moved = jax.tree.map(lambda a, b: bool(jnp.any(jnp.abs(a - b) > 1e-7)), with_decay, without)
    chex.assert_trees_all_equal(moved, optax_strat.decays(params))


def test_lamb_is_optax_lamb_on_layers_in_a_list(params):
    config = LAMB(learning_rate=1e-2, clip=None, weight_decay=0.1)
    expected = optax.lamb(
        1e-2, config.b1, config.b2, config.eps, weight_decay=0.1, mask=optax_strat.decays
    )
    check_equal_on_listed_layers(build(config), expected, params)


def test_adafactor_is_optax_adafactor_on_layers_in_a_list(params):
    config = Adafactor(learning_rate=1e-2, min_dim_size_to_factor=8, weight_decay=0.0)
    expected = optax.adafactor(1e-2, 8, config.decay_rate, clipping_threshold=1.0)
    check_equal_on_listed_layers(build(config), expected, params)


def check_equal_on_listed_layers(ours, theirs, params):
    def listed(tree):
        layers = [jax.tree.map(lambda x, i=i: x[i], tree["layers"]) for i in range(2)]
        return {**tree, "layers": layers}

    our_state, their_state = ours.init(params), theirs.init(listed(params))
    our_update, their_update = jax.jit(ours.update), jax.jit(theirs.update)
    for seed in range(4):
        grads = tiny.gradients(seed)
        got, our_state = our_update(grads, our_state, params)
        expected, their_state = their_update(listed(grads), their_state, listed(params))
        chex.assert_trees_all_close(listed(got), expected, rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            AdamW(learning_rate=1e-2, clip=None),
            optax.adamw(1e-2, 0.9, 0.98, weight_decay=0.1, mask=optax_strat.decays),
        ),
        (
            Lion(learning_rate=1e-3, clip=1.0),
            optax.chain(
                optax.clip_by_global_norm(1.0),
                optax.lion(1e-3, 0.9, 0.99, weight_decay=0.7, mask=optax_strat.decays),
            ),
        ),
    ],
    ids=["AdamW", "Lion"],
)
def test_a_baseline_is_optax_own(config, expected, params):
    got, expected = updates_of(build(config), params), updates_of(expected, params)
    chex.assert_trees_all_close(got, expected, rtol=1e-6, atol=1e-10)  # Where decay cancels a step.


def test_ademamix_warms_its_slow_momentum_up_over_the_whole_run(params):
    """Equations of section 3 in NumPy, on one parameter."""
    config = AdEMAMix(learning_rate=1e-2, clip=None, weight_decay=0.0)
    seen = [
        np.asarray(updates["final_norm"]["scale"], np.float64)
        for updates in updates_of(build(config), params)
    ]
    m1 = m2 = v = 0.0
    for t, got in enumerate(seen):
        g = np.asarray(tiny.gradients(t)["final_norm"]["scale"], np.float64)
        progress = t / STEPS
        log_start, log_end = np.log(config.b1), np.log(config.b3)
        b3 = np.exp(log_start * log_end / ((1 - progress) * log_end + progress * log_start))
        m1 = config.b1 * m1 + (1 - config.b1) * g
        v = config.b2 * v + (1 - config.b2) * g**2
        m2 = b3 * m2 + (1 - b3) * g
        m_hat, v_hat = m1 / (1 - config.b1 ** (t + 1)), v / (1 - config.b2 ** (t + 1))
        expected = -1e-2 * (m_hat + config.alpha * progress * m2) / (np.sqrt(v_hat) + config.eps)
        np.testing.assert_allclose(got, expected, rtol=2e-4)


def test_muon_orthogonalizes_hidden_matrices_of_every_layer(params):
    config = Muon(learning_rate=1.0, weight_decay=0.0, clip=None, consistent_rms=None)
    (updates,) = updates_of(build(config), params, 1)
    attention = updates["layers"]["attention"]
    matrices = {
        "query": attention["query"]["kernel"].reshape(2, 16, 16),
        "out": attention["out"]["kernel"].reshape(2, 16, 16),
        "up": updates["layers"]["mlp"]["up"]["kernel"],
    }
    for name, stack in matrices.items():
        for layer in stack:
            values = np.linalg.svd(np.asarray(layer), compute_uv=False)
            assert np.all((values > 0.6) & (values < 1.3)), (name, values)
    # Adam's first step has the same size everywhere: the embedding is not orthogonalized.
    sizes = np.abs(updates["embed"]["embedding"])
    np.testing.assert_allclose(sizes, np.median(sizes), rtol=0.05)


def test_muon_is_optax_muon_with_decay_of_matrices_alone(params):
    config = Muon(learning_rate=1e-2)
    expected = optax.chain(
        optax.clip_by_global_norm(1.0),
        contrib.muon(
            1e-2, beta=0.95, adam_b1=0.9, adam_b2=0.95, consistent_rms=0.2,
            muon_weight_dimension_numbers=optax_strat.muon_dimensions,
        ),
        optax.add_decayed_weights(-1e-2 * 0.1, optax_strat.decays),
    )  # fmt: skip
    got, expected = updates_of(build(config), params, 3), updates_of(expected, params, 3)
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("stratum", ["attention", "mlp"])
def test_muon_on_one_stratum_leaves_the_others_to_adamw(stratum, params):
    shared = {"learning_rate": 1e-2, "clip": None}
    labels = optax_strat.layer_types(params)
    muon = Muon(strata=(stratum,), adam_b1=0.8, adam_b2=0.97, adam_nesterov=False, **shared)
    updates = updates_of(build(muon), params, 2)[-1]
    by_adamw = updates_of(build(AdamW(b1=0.8, b2=0.97, **shared)), params, 2)[-1]
    by_muon = updates_of(build(Muon(**shared)), params, 2)[-1]
    expected = jax.tree.map(
        lambda label, muon, adamw: muon if label == stratum else adamw, labels, by_muon, by_adamw
    )
    chex.assert_trees_all_close(updates, expected, rtol=1e-6, atol=1e-9)


def test_the_schedule_warms_up_linearly_and_ends_at_its_fraction():
    rate = ScheduleConfig(4, "cosine", 0.1).build(2.0, 20)
    np.testing.assert_allclose([rate(k) for k in range(4)], [0.5, 1.0, 1.5, 2.0])
    np.testing.assert_allclose([rate(4), rate(12), rate(20)], [2.0, 1.1, 0.2], rtol=1e-6)
    linear = ScheduleConfig(4, "linear", 0.0).build(2.0, 20)
    np.testing.assert_allclose([linear(4), linear(12), linear(20)], [2.0, 1.0, 0.0], atol=1e-7)
    constant = ScheduleConfig(0, "constant").build(2.0, 20)
    np.testing.assert_allclose([constant(0), constant(19)], 2.0)
