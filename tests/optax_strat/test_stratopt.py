"""StratOpt: numbers worked out by hand, and what each option changes."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_strat import (
    ClipToParameters,
    ClipToReference,
    StratoptReadings,
    find_states,
    scale_by_muon,
    scale_by_stratopt,
    strata_names,
    stratify,
    stratopt,
)
from optax_strat import ScaleByStratoptState as State
from tests.support import trees

LITERAL: dict[str, Any] = {"scale_bounds": None, "layer_clip": None, "weight_decay": 0.0}


def two_steps(tx: optax.GradientTransformation, *gradients: Any) -> tuple[Any, Any]:
    """The last direction and the state after the gradients, one step each."""
    state = tx.init(gradients[0])
    for g in gradients:
        direction, state = tx.update(g, state, gradients[0])
    return direction, state


def test_the_first_two_steps_are_those_worked_out_by_hand() -> None:
    params = {"mlp": jnp.array([[1.0, 2.0]])}
    tx = stratopt(0.1)
    state = tx.init(params)

    # ‖g‖ = 5 is clipped to 1: g = (0.6, 0.8), m = (0.06, 0.08), v = (0.00036, 0.00064), and
    # m / √v = √10 for both; ḡ = 1, so α = 1. Decay adds 0.1 θ; the rate is 0.1.
    updates, state = tx.update({"mlp": jnp.array([[3.0, 4.0]])}, state, params)
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["mlp"], [[1 - 0.3262278, 2 - 0.3362278]], rtol=1e-6)

    # ‖g‖ = 0.5. ḡ = (0.0099 · 1 + 0.01 · 0.5) / 0.0199 = 0.7487437, so α = 0.6677852.
    # m = 0.9 (0.06, 0.08) + 0.1 (0.3, 0.4) = (0.084, 0.112); v = (0.00044964, 0.00079936);
    # m / √v = 3.9613828 for both, times α = 2.6453529, and decay adds 0.1 θ again.
    updates, state = tx.update({"mlp": jnp.array([[0.3, 0.4]])}, state, params)
    np.testing.assert_allclose(updates["mlp"], [[-0.2712730, -0.2811730]], rtol=1e-6)
    (inner,) = find_states(state, State)
    np.testing.assert_allclose(inner.gbar, [0.7487437], rtol=1e-6)
    np.testing.assert_allclose(inner.alpha, [0.6677852], rtol=1e-6)
    assert int(inner.count) == 2


def test_with_all_parts_off_it_is_section_3_1_to_the_letter() -> None:
    b1, b2, eps, rate = 0.9, 0.999, 1e-8, 1e-2
    theta, m, v, norms = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2), []
    params = jnp.asarray(theta, jnp.float32)
    tx = stratopt(rate, b1, b2, eps, reference="running_mean", **LITERAL)
    state = tx.init(params)
    for t in range(1, 6):
        g = 2.0**t * theta
        updates, state = tx.update(jnp.asarray(g, jnp.float32), state)
        params = optax.apply_updates(params, updates)
        norms.append(np.linalg.norm(g))
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        alpha = norms[-1] / (np.mean(norms) + eps)
        theta = theta - rate * alpha * m / (np.sqrt(v) + eps)
    np.testing.assert_allclose(params, theta, rtol=1e-5)


def test_scaling_starts_at_one_in_the_state_and_after_the_first_step() -> None:
    g = {"mlp": jnp.full((3, 2), 1e-3), "head": jnp.full((2, 2), 1e3)}
    tx = scale_by_stratopt(layer_clip=None)
    np.testing.assert_array_equal(tx.init(g).alpha, [1.0, 1.0])
    _, state = two_steps(tx, g)
    np.testing.assert_allclose(state.alpha, [1.0, 1.0], rtol=1e-5)


def test_without_bias_correction_a_steady_gradient_overshoots_6_6_times() -> None:
    """The peak of m / √v that warm-up has to carry: (1 - 0.9^t) / √(1 - 0.999^t)."""
    tx = scale_by_stratopt(layer_clip=None)

    def step(state: Any, _: Any) -> tuple[Any, Any]:
        direction, state = tx.update(jnp.ones(1), state)
        return state, direction[0]

    _, printed = jax.lax.scan(step, tx.init(jnp.ones(1)), length=100)
    assert printed[0] == pytest.approx(math.sqrt(10), rel=1e-4)
    assert max(printed) == pytest.approx(6.57, abs=0.01)
    corrected, _ = two_steps(
        scale_by_stratopt(layer_clip=None, bias_correction=True), jnp.ones(1), jnp.ones(1)
    )
    np.testing.assert_allclose(corrected, [1.0], rtol=1e-4)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        # Norms of two layers: (1, 3), then (2, 12). Decay 0.5: weights 1/3 and 2/3 at step 2.
        ("ema", [1 / 3 + 4 / 3, 1 + 8]),
        ("running_mean", [1.5, 7.5]),
        ("layer_mean", [7.0, 7.0]),
        ("global_ema", [2 / 3 + 14 / 3] * 2),
    ],
)
def test_references_are_four_readings_of_gbar(reference: str, expected: list[float]) -> None:
    tx = scale_by_stratopt(
        reference=reference, layer_clip=None, readings=StratoptReadings(reference_decay=0.5)
    )
    first = {"head": jnp.array([1.0]), "mlp": jnp.array([3.0])}
    second = {"head": jnp.array([2.0]), "mlp": jnp.array([12.0])}
    _, state = two_steps(tx, first, second)
    np.testing.assert_allclose(state.gbar, expected, rtol=1e-6)
    np.testing.assert_allclose(state.alpha, np.array([2.0, 12.0]) / expected, rtol=1e-6)


def test_bounds_limit_the_scaling_and_none_does_not() -> None:
    quiet, loud = jnp.full(4, 1e-3), jnp.full(4, 1e3)
    for bounds, spike, lull in (
        (None, 100.0, 2e-6),
        ((0.1, 10.0), 10.0, 0.1),
        ((0.5, 2.0), 2, 0.5),
    ):
        tx = scale_by_stratopt(scale_bounds=bounds, layer_clip=None)
        # After a hundred quiet steps the reference is a hundredth of a spike's own norm.
        state = tx.init(quiet)._replace(count=jnp.int32(5000), gbar=jnp.array([2e-3]))
        assert tx.update(loud, state)[1].alpha[0] == pytest.approx(spike, rel=2e-2)
        state = state._replace(gbar=jnp.array([1e3]))
        assert tx.update(quiet, state)[1].alpha[0] == pytest.approx(lull, rel=2e-2)


def test_the_reference_sees_clipped_norms() -> None:
    _, state = two_steps(scale_by_stratopt(layer_clip=1.0), jnp.array([30.0, 40.0]))
    np.testing.assert_allclose(state.gbar, [1.0])
    np.testing.assert_allclose(state.clip_factor, [0.02], rtol=1e-6)


def test_layer_clip_takes_a_number_a_mapping_or_a_rule() -> None:
    g = {"attn": jnp.full((2, 2), 5.0), "mlp": jnp.full((2, 2), 5.0)}  # both of norm 10
    small = jax.tree.map(lambda x: x / 10, g)

    def factors(layer_clip: Any, *gradients: Any) -> list[float]:
        _, state = two_steps(scale_by_stratopt(layer_clip=layer_clip), *gradients)
        return [round(float(x), 5) for x in state.clip_factor]

    assert factors(None, g) == [1, 1]
    assert factors(2.0, g) == [0.2, 0.2]
    assert factors({"mlp": 4.0}, g) == [1, 0.4]
    assert factors(ClipToReference(2.0), g) == [1, 1]  # no step before the first
    assert factors(ClipToReference(2.0), small, g) == [0.2, 0.2]  # twice the norm of 1 before
    assert factors(ClipToParameters(0.1), g, g) == [0.1, 0.1]  # here, g are the parameters too


def test_weight_decay_is_decoupled_and_for_matrices_only() -> None:
    params = trees.model()
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = (tx := stratopt(0.1, weight_decay=0.5)).update(zeros, tx.init(params), params)
    decayed = jax.tree.map(lambda p: -0.05 * p, params)
    for path in (("final_norm", "scale"), ("layers", "attention_norm", "scale")):
        leaf = decayed
        for key in path[:-1]:
            leaf = leaf[key]
        leaf[path[-1]] = jnp.zeros_like(leaf[path[-1]])
    chex.assert_trees_all_close(updates, decayed, rtol=1e-6)


def test_mask_chooses_what_decays() -> None:
    params = {"head": jnp.ones((2, 2)), "norm": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    for mask in ({"head": False, "norm": True}, lambda tree: {"head": False, "norm": True}):
        tx = stratopt(0.1, weight_decay=0.5, mask=mask)
        updates, _ = tx.update(zeros, tx.init(params), params)
        np.testing.assert_array_equal(updates["head"], 0.0)
        np.testing.assert_allclose(updates["norm"], -0.05)


def test_without_decay_it_needs_no_parameters() -> None:
    tx = stratopt(0.1, weight_decay=0.0)
    updates, _ = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    assert bool(jnp.all(updates < 0))


def test_gradient_mixing_weighs_agreement_only() -> None:
    """Along the momentum a share of the gradient is mixed in; against it, nothing."""
    g = jnp.array([1.0, 0.0])
    plain, mixed = (
        scale_by_stratopt(),
        scale_by_stratopt(readings=StratoptReadings(gradient_mixing=0.5)),
    )
    along = [two_steps(tx, g, g)[0][0] for tx in (plain, mixed)]
    # m = 0.19, and half of the way from m to g is 0.595.
    assert along[1] / along[0] == pytest.approx(0.595 / 0.19, rel=1e-5)
    against = [two_steps(tx, g, -g)[0][0] for tx in (plain, mixed)]
    assert against[1] == against[0]


def test_momentum_adjustment_forgets_what_gradients_turn_away_from() -> None:
    """β_1 = 0.9 + 0.08 cos(g, m): 0.98 along the momentum, 0.82 against it, 0.9 across."""
    east, north = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    tx = scale_by_stratopt(readings=StratoptReadings(momentum_adjustment=0.08))
    for second, b1 in ((east, 0.98), (-east, 0.82), (north, 0.9)):
        _, state = two_steps(tx, east, second)
        np.testing.assert_allclose(state.mu, b1 * 0.1 * east + (1 - b1) * second, rtol=1e-5)
        np.testing.assert_allclose(state.b1_product, [0.9 * b1], rtol=1e-6)


@pytest.mark.slow
def test_centred_measures_the_spread_around_the_momentum() -> None:
    """On a steady gradient the deviation from the momentum vanishes, so steps grow."""
    g = [jnp.ones(1)] * 40
    _, plain = two_steps(scale_by_stratopt(), *g)
    _, centred = two_steps(scale_by_stratopt(readings=StratoptReadings(centred=True)), *g)
    assert float(centred.nu[0]) < 0.2 * float(plain.nu[0])


@pytest.mark.parametrize(("stratum", "entries"), [("layer", 13), ("block", 5), ("type", 5)])
def test_stratum_sets_what_shares_a_norm(stratum: str, entries: int) -> None:
    params = trees.model()
    _, state = two_steps(
        scale_by_stratopt(layer_clip=None, readings=StratoptReadings(stratum=stratum)), params
    )
    assert state.gbar.shape == (entries,)
    assert len(strata_names(params, stratum)) == entries
    # However the squares are grouped, they add up to the same.
    assert jnp.sum(state.gbar**2) == pytest.approx(float(optax.tree.norm(params)) ** 2, rel=1e-5)


def test_stacked_layers_are_layers() -> None:
    """A model with its layers in a list, and the same model stacked, take the same steps."""
    stacked = trees.model()
    unstacked = trees.unstack(stacked)
    tx = stratopt(1e-2, readings=StratoptReadings(gradient_mixing=0.2))

    @jax.jit
    def train(params: Any, grads: Any) -> tuple[Any, Any]:
        def step(carry: Any, g: Any) -> tuple[Any, None]:
            updates, state = tx.update(g, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), grads)[0]

    grads = trees.gradients(stacked, 12)
    layers = [jax.tree.map(lambda x, i=i: x[:, i], grads["layers"]) for i in range(trees.LAYERS)]
    params, _ = train(stacked, grads)
    expected, _ = train(unstacked, {**grads, "layers": layers})
    chex.assert_trees_all_close(params, trees.restack(expected), rtol=1e-5, atol=1e-6)


def test_first_moment_can_be_bfloat16_and_the_second_is_never() -> None:
    for dtype in (jnp.float32, jnp.bfloat16):
        params = {"mlp": jnp.ones((4, 4), dtype)}
        state = scale_by_stratopt(mu_dtype="bfloat16").init(params)
        assert state.mu["mlp"].dtype == jnp.bfloat16
        assert state.nu["mlp"].dtype == jnp.float32


def test_a_bfloat16_model_keeps_decaying_its_second_moment() -> None:
    """In bfloat16, 0.999 v is v: a naive second moment never forgets a spike."""
    g = jnp.full(8, 100.0, jnp.bfloat16)
    tx = scale_by_stratopt(layer_clip=None)
    state = tx.init(g)
    _, state = tx.update(g, state)
    _, after = jax.lax.scan(lambda s, _: (tx.update(0 * g, s)[1], s.nu), state, length=1000)
    assert float(after[-1][0]) == pytest.approx(float(after[0][0]) * 0.999**999, rel=1e-3)


def test_the_learning_rate_may_be_a_schedule() -> None:
    g = jnp.ones(2)
    scheduled = stratopt(lambda count: 0.1 / (1 + count), weight_decay=0.0)
    constant = stratopt(0.1, weight_decay=0.0)
    np.testing.assert_allclose(two_steps(scheduled, g)[0], two_steps(constant, g)[0])
    np.testing.assert_allclose(two_steps(scheduled, g, g)[0], two_steps(constant, g, g)[0] / 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reference_decay": 1.5}, "reference_decay"),
        ({"gradient_mixing": -0.1}, "gradient_mixing"),
        ({"momentum_adjustment": -0.1}, "momentum_adjustment"),
        ({"stratum": "head"}, "stratum must be one of"),
    ],
)
def test_bad_readings_are_refused_where_they_are_written(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        StratoptReadings(**arguments)


def test_without_a_first_moment_none_is_kept_and_the_direction_is_that_of_the_gradient() -> None:
    params = trees.model()
    grads = [jax.tree.map(lambda x, k=k: x * k, params) for k in (1.0, -0.5)]
    kept = scale_by_stratopt(b1=1e-12, second_moment="factored")
    none = scale_by_stratopt(b1=0.0, second_moment="factored")
    assert none.init(params).mu is None
    state_bytes = sum(x.nbytes for x in jax.tree.leaves(none.init(params)))
    assert state_bytes < 1.7 * sum(x.size for x in jax.tree.leaves(params))
    states = [tx.init(params) for tx in (kept, none)]
    for g in grads:
        (expected, states[0]), (found, states[1]) = (
            tx.update(g, state) for tx, state in zip((kept, none), states, strict=True)
        )
        chex.assert_trees_all_close(found, expected, rtol=1e-5)


def test_it_can_stand_in_front_of_muon() -> None:
    """Recipe C: hidden matrices normalized by StratOpt, then orthogonalized."""
    params = {"mlp": {"up": jnp.ones((4, 8)) + jnp.eye(4, 8)}, "norm": jnp.ones(4)}
    normalize = scale_by_stratopt(b1=0, second_moment="factored", scale_bounds=(0.5, 2.0))
    tx = stratify(
        {"mlp": optax.chain(normalize, scale_by_muon()), "norm": optax.scale_by_adam()},
        learning_rate=0.1,
    )
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    assert all(bool(jnp.all(jnp.isfinite(u))) for u in jax.tree.leaves(updates))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": -1}, "learning_rate must be a finite number, 0 or above, but it is -1"),
        ({"learning_rate": math.nan}, "learning_rate .* nan"),
        ({"b1": 1.0}, r"b1 must lie in \[0, 1\), but it is 1.0"),
        ({"b2": -0.1}, "b2"),
        ({"eps": -1e-8}, "eps"),
        ({"reference": "median"}, "reference must be one of 'ema', .* but it is 'median'"),
        ({"scale_bounds": (2.0, 1.0)}, "scale_bounds must be in order"),
        ({"scale_bounds": 3.0}, "scale_bounds must be a pair"),
        ({"layer_clip": 0.0}, "layer_clip"),
        ({"layer_clip": "tight"}, "layer_clip must be a number"),
        ({"layer_clip": {"mlpp": 1.0}}, "unknown layer type 'mlpp'.*; did you mean 'mlp'"),
        (
            {"layer_clip": {"mlp": 1.0}, "readings": StratoptReadings(stratum="block")},
            "stratum='block'",
        ),
        ({"layer_clip": ClipToReference(0.0)}, "layer_clip.kappa"),
        ({"layer_clip": ClipToParameters(-1.0)}, "layer_clip.ratio"),
        ({"weight_decay": -0.1}, "weight_decay"),
        (
            {"readings": StratoptReadings(momentum_adjustment=0.1)},
            r"b1 ± momentum_adjustment in \[0, 1\).* b1=0.9 it is 0.1",
        ),
        ({"b1": 0.0, "readings": StratoptReadings(centred=True)}, "b1=0 keeps no first moment"),
        ({"b1": 0, "readings": StratoptReadings(gradient_mixing=1.0)}, "b1=0 keeps no first"),
        ({"second_moment": "int4"}, "second_moment must be one of None, 'float32', 'bfloat16'"),
        ({"layers": None}, "layers must be a Layers"),
        ({"nonfinite": "ignore"}, "nonfinite must be one of"),
        ({"mu_dtype": "int8"}, "mu_dtype must be a floating-point dtype"),
        ({"mu_dtype": "half"}, None),
        ({"mu_dtype": "tiny"}, "mu_dtype"),
    ],
)
def test_bad_arguments_are_refused_with_one_sentence(
    arguments: dict[str, Any], message: str | None
) -> None:
    arguments = {"learning_rate": 0.1, **arguments}
    if message is None:
        stratopt(**arguments)
        return
    with pytest.raises(ValueError, match=message):
        stratopt(**arguments)
