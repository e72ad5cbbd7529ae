"""Statistics by layer type, kept in the state."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from optax_strat import (
    AdaptLayerTypesState,
    LayerType,
    ScaleByStratoptState,
    StratoptReadings,
    aardvark,
    dynamic_loss_scale,
    find_states,
    layer_types,
    norms_by_layer_type,
    read_statistics,
    record_statistics,
    scale_by_layer_type,
    scale_by_stratopt,
    skip_nonfinite,
    strata_names,
    stratify,
    stratopt,
)
from tests.support import trees
from tests.support.donated import traffic


def small(seed: int) -> dict[str, Any]:
    """Every named layer type, in seven layers of five leaves: fewer compile faster."""
    rng = np.random.default_rng(seed)
    shapes = {
        "embed": (4, 2),
        "layers": {"attn": (2, 3, 2), "mlp": (2, 2, 3)},
        "lm_head": (2, 3),
        "norm": (2,),
    }
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def after_a_step(tx: optax.GradientTransformation, params: Any = None, g: Any = None) -> Any:
    """The statistics of one step, and the state."""
    params = small(0) if params is None else params
    g = small(1) if g is None else g
    _, state = jax.jit(lambda: tx.update(g, tx.init(params), params))()
    return read_statistics(state), state


def in_numbers(by_type: dict[str, jax.Array]) -> dict[str, float]:
    return {kind: round(float(x), 4) for kind, x in by_type.items() if x}


def test_norms_are_those_of_the_last_step() -> None:
    tx = record_statistics(aardvark(0.1))
    params = small(0)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for seed in (1, 2):
        g = small(seed)
        updates, state = update(g, state, params)
    found = read_statistics(state)
    for name, tree in (("gradient", g), ("update", updates), ("parameter", params)):
        assert list(found[name]) == list(LayerType)
        assert [float(found[name].pop(kind)) for kind in ("bias", "other")] == [0.0, 0.0]
        chex.assert_trees_all_close(found[name], norms_by_layer_type(tree), rtol=1e-6)


def test_alpha_is_the_fixed_multiplier_of_each_type() -> None:
    found, _ = after_a_step(record_statistics(aardvark(0.1), norms=()))
    expected = {"embedding": 1.0, "attention": 1.5, "mlp": 1.2, "head": 1.8, "norm": 1.0}
    assert in_numbers(found["alpha"]) == expected


def test_alpha_is_the_normalized_multiplier_of_each_type() -> None:
    found, _ = after_a_step(record_statistics(aardvark(0.1, scaling="normalized"), norms=()))
    alpha, params = in_numbers(found["alpha"]), small(0)
    assert alpha["head"] / alpha["embedding"] == pytest.approx(1.8, rel=1e-3)
    sizes = jax.tree.map(lambda p, kind: p.size * alpha[kind], params, layer_types(params))
    total = sum(p.size for p in jax.tree.leaves(params))
    assert sum(jax.tree.leaves(sizes)) / total == pytest.approx(1.0, rel=1e-3)


def test_alpha_is_the_adaptive_multiplier_of_each_type() -> None:
    found, state = after_a_step(record_statistics(aardvark(0.1, scaling="adaptive"), norms=()))
    (adaptive,) = find_states(state, AdaptLayerTypesState)
    assert float(adaptive.multipliers[1]) != 1.0
    for index, kind in enumerate(("embedding", "attention", "mlp", "head")):
        assert found["alpha"][kind] == adaptive.multipliers[index]
    assert found["alpha"]["norm"] == 1.0


@pytest.mark.parametrize("stratum", ["layer", "block", "type"])
def test_alpha_is_the_mean_of_stratopts_over_the_types_layers(stratum: Any) -> None:
    params = trees.unstack(small(0))
    names = strata_names(params, stratum)
    optimizer = stratopt(0.1, reference="layer_mean", readings=StratoptReadings(stratum=stratum))
    tx = record_statistics(optimizer, norms=(), stratum=stratum)
    found, state = after_a_step(tx, params, trees.unstack(small(1)))
    (inner,) = find_states(state, ScaleByStratoptState)
    for name in ("alpha", "clip_factor"):
        of = dict(zip(names, getattr(inner, name).tolist(), strict=True))
        expected = {
            "layer": {"head": ["lm_head"], "mlp": ["layers/0/mlp", "layers/1/mlp"]},
            "block": {"head": ["lm_head"], "mlp": ["layers/0", "layers/1"]},
            "type": {"head": ["head"], "mlp": ["mlp"]},
        }[stratum]
        for kind, strata in expected.items():
            mean = np.mean([of[stratum] for stratum in strata])
            np.testing.assert_allclose(found[name][kind], mean, rtol=1e-6)


def test_a_slice_of_a_stacked_leaf_counts_as_a_layer() -> None:
    tx = record_statistics(stratopt(0.1, reference="layer_mean"))
    stacked, _ = after_a_step(tx)
    listed, _ = after_a_step(tx, trees.unstack(small(0)), trees.unstack(small(1)))
    chex.assert_trees_all_close(stacked, listed, rtol=1e-5)


@pytest.mark.parametrize(("clip_mode", "threshold"), [("global_norm", 1.0), ("per_tensor", 4.0)])
def test_the_clip_factor_is_what_the_gradients_were_multiplied_by(
    clip_mode: Any, threshold: float
) -> None:
    tx = record_statistics(aardvark(0.1, clip=threshold, clip_mode=clip_mode))
    params = {"lm_head": jnp.ones(2), "mlp": {"up": jnp.ones(2), "down": jnp.ones(2)}}
    g = {"lm_head": jnp.zeros(2), "mlp": {"up": jnp.array([6.0, 8]), "down": jnp.array([3.0, 0])}}
    found, _ = after_a_step(tx, params, g)
    norm = np.sqrt(109.0)
    by_type = {
        "global_norm": {"head": 1 / norm, "mlp": 1 / norm},
        "per_tensor": {"head": 1.0, "mlp": (0.4 + 1.0) / 2},
    }[clip_mode]
    for kind, expected in by_type.items():
        np.testing.assert_allclose(found["clip_factor"][kind], expected, rtol=1e-5)


def test_each_part_of_a_partition_has_its_own_factors() -> None:
    parts = stratify(
        {
            ("attention", "mlp"): stratopt(0.1, reference="layer_mean"),
            ("embedding", "head", "norm", "bias"): aardvark(0.1, clip=None, nonfinite=None),
        }
    )
    found, state = after_a_step(record_statistics(parts, norms=()))
    (inner,) = find_states(state, ScaleByStratoptState)
    alpha = in_numbers(found["alpha"])
    assert {kind: alpha[kind] for kind in ("embedding", "head", "norm")} == {
        "embedding": 1.0,
        "head": 1.8,
        "norm": 1.0,
    }
    # One leaf of attention, then one of the MLP, of two stacked layers each.
    np.testing.assert_allclose(alpha["attention"], jnp.mean(inner.alpha[:2]), rtol=1e-3)
    np.testing.assert_allclose(alpha["mlp"], jnp.mean(inner.alpha[2:]), rtol=1e-3)
    assert in_numbers(found["clip_factor"])["head"] == 1.0


def test_factors_that_follow_each_other_multiply() -> None:
    tx = optax.chain(scale_by_stratopt(reference="layer_mean"), scale_by_layer_type({"mlp": 2.0}))
    found, state = after_a_step(record_statistics(tx, norms=()))
    (inner,) = find_states(state, ScaleByStratoptState)
    mlp = [i for i, name in enumerate(strata_names(small(0))) if "mlp" in name]
    np.testing.assert_allclose(
        found["alpha"]["mlp"], 2.0 * np.mean(np.asarray(inner.alpha)[mlp]), rtol=1e-6
    )


def test_a_multiplier_that_changes_is_recorded_as_it_is() -> None:
    schedule = optax.piecewise_constant_schedule(2.0, {1: 3.0})
    make = lambda number: scale_by_layer_type({"mlp": number})  # noqa: E731
    tx = record_statistics(optax.inject_hyperparams(make)(number=schedule))
    params = {"mlp": jnp.ones(2)}
    _, state = tx.update(params, tx.init(params), params)
    assert read_statistics(state)["alpha"]["mlp"] == 2.0
    _, state = tx.update(params, state, params)
    assert read_statistics(state)["alpha"]["mlp"] == 6.0


def test_what_the_optimizer_does_not_have_is_absent() -> None:
    found, _ = after_a_step(record_statistics(optax.sgd(0.1)))
    assert list(found) == ["gradient", "update", "parameter"]
    found, _ = after_a_step(record_statistics(scale_by_layer_type({"mlp": 2.0}), norms=()))
    assert list(found) == ["alpha"]
    found, _ = after_a_step(record_statistics(aardvark(0.1), norms=["gradient"]))
    assert list(found) == ["gradient", "alpha", "clip_factor", "skips"]


@pytest.mark.parametrize("outside", [True, False])
def test_skips_are_counted_wherever_the_guard_is(outside: bool) -> None:
    """Outside, the guard keeps the last good step on record; inside, the bad one is recorded."""
    if outside:
        tx = skip_nonfinite(record_statistics(optax.adam(0.1)))
    else:
        tx = record_statistics(skip_nonfinite(optax.adam(0.1)))
    params = {"mlp": jnp.array([3.0, 4.0])}
    update = jax.jit(tx.update)
    _, state = update(params, tx.init(params), params)
    _, state = update({"mlp": jnp.array([jnp.nan, 1.0])}, state, params)
    found = read_statistics(state)
    assert found["skips"] == {"total": 1, "consecutive": 1}
    if outside:
        assert found["gradient"]["mlp"] == 5.0
    else:
        assert jnp.isnan(found["gradient"]["mlp"])
        assert found["update"]["mlp"] == 0.0


@pytest.mark.parametrize("make", [aardvark, stratopt])
def test_recording_changes_no_update(make: Any) -> None:
    params = small(0)
    plain, recorded = make(0.1), record_statistics(make(0.1))

    @jax.jit
    def both(g: Any) -> Any:
        expected, _ = plain.update(g, plain.init(params), params)
        updates, _ = recorded.update(g, recorded.init(params), params)
        return updates, expected

    chex.assert_trees_all_close(*both(small(1)), rtol=1e-6)


@pytest.mark.parametrize(
    "tx",
    [
        record_statistics(aardvark(0.1)),
        record_statistics(
            stratopt(0.1, readings=StratoptReadings(stratum="block")), stratum="block"
        ),
        dynamic_loss_scale(record_statistics(aardvark(0.1, scaling="adaptive"))),
    ],
    ids=["aardvark", "stratopt by block", "scaled"],
)
def test_a_scanned_step_returns_them_as_metrics(tx: optax.GradientTransformation) -> None:
    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = tx.update(params, state, params)
        return (optax.apply_updates(params, updates), state), read_statistics(state)

    params = small(0)
    (_, state), metrics = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=2))(params)
    assert metrics["alpha"]["mlp"].shape == (2,)
    chex.assert_trees_all_equal(jax.tree.map(lambda x: x[-1], metrics), read_statistics(state))
    chex.assert_trees_all_equal(optax.tree.map_params(tx, lambda x: x, state), state)


def test_on_an_explicit_mesh_they_are_those_without() -> None:
    tx = record_statistics(stratopt(0.1, reference="layer_mean"))
    params = {"embed": jnp.ones((8, 2)), "layers": {"mlp": jnp.arange(32.0).reshape(2, 8, 2)}}
    step = jax.jit(lambda p: read_statistics(tx.update(p, tx.init(p), p)[1]))
    expected = jax.device_get(step(params))
    mesh = jax.make_mesh((8,), ("fsdp",))
    with jax.set_mesh(mesh):
        specs = {"embed": PartitionSpec("fsdp"), "layers": {"mlp": PartitionSpec(None, "fsdp")}}
        sharded = jax.tree.map(
            lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), params, specs
        )
        found = step(sharded)
    chex.assert_trees_all_close(jax.device_get(found), expected, rtol=1e-6)


def test_they_follow_what_stands_outside() -> None:
    tx = optax.chain(optax.clip_by_global_norm(1.0), record_statistics(optax.sgd(0.5)))
    found, _ = after_a_step(tx, *[{"mlp": jnp.array([3.0, 4.0])}] * 2)
    assert in_numbers(found["gradient"]) == {"mlp": 1.0}  # after the clip outside
    assert in_numbers(found["update"]) == {"mlp": 0.5}
    assert in_numbers(found["parameter"]) == {"mlp": 5.0}


def test_without_parameters_their_norms_stay_zero() -> None:
    tx = record_statistics(optax.sgd(0.1))
    _, state = tx.update({"mlp": jnp.ones(2)}, tx.init({"mlp": jnp.ones(2)}))
    assert float(read_statistics(state)["parameter"]["mlp"]) == 0.0


@pytest.mark.parametrize("count", [0, 2])
def test_the_reader_wants_exactly_one(count: int) -> None:
    tx = optax.chain(*[record_statistics(optax.sgd(0.1))] * count, optax.sgd(0.1))
    with pytest.raises(ValueError, match=f"but found {count}"):
        read_statistics(tx.init({"mlp": jnp.ones(2)}))


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="Each of norms must be one of 'gradient', 'update'"):
        record_statistics(optax.sgd(0.1), norms=["gradients"])


def test_strata_that_do_not_fit_the_optimizers_are_refused() -> None:
    tx = record_statistics(stratopt(0.1, readings=StratoptReadings(stratum="type")))
    with pytest.raises(ValueError, match="has 5 strata, but the parameters make 7"):
        tx.init(small(0))


@pytest.mark.skipif(
    jax.__version_info__ < (0, 10), reason="XLA for CPUs of before adds up the squares twice."
)
@pytest.mark.parametrize("make", [aardvark, stratopt])
def test_what_the_optimizer_knows_anyway_costs_nothing_to_record(make: Any) -> None:
    plain, before = traffic(make(0.1))
    recorded, temporary = traffic(record_statistics(make(0.1), norms=["gradient"]))
    assert recorded <= plain + 0.1
    assert temporary <= before + 0.1
