"""Inside ``jax.shard_map`` every device has a part of each array; norms are those of the whole.

The types of the parts say over which axes of the mesh they vary. With ``check_vma=False`` they do
not, and ``axis_name`` says it.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

from optax_strat import (
    ClipToParameters,
    Layers,
    RepairNonfiniteState,
    StratoptReadings,
    aardvark,
    clip_by_layer_norm,
    dynamic_loss_scale,
    find_states,
    norms_by_layer_type,
    record_statistics,
    repair_nonfinite,
    scale_by_aardvark,
    scale_by_stratopt,
    skip_counts,
    skip_nonfinite,
    stratify,
    stratopt,
)
from tests.support import fast

STACKED = Layers(stacked=["layers"])
MIXING = StratoptReadings(gradient_mixing=0.3)

SPECS = {
    "embed": PartitionSpec("fsdp"),
    "layers": {"mlp": PartitionSpec(None, None, "fsdp"), "norm": PartitionSpec()},
    "head": PartitionSpec(None, ("fsdp", "tensor")),
}

OPTIMIZERS = {
    "stratopt": lambda: stratopt(1e-2, layers=STACKED),
    "stratopt, guarded": lambda: stratopt(1e-2, nonfinite="skip", layers=STACKED),
    "stratopt, mixing": lambda: stratopt(
        1e-2, layer_clip=ClipToParameters(), readings=MIXING, layers=STACKED
    ),
    "aardvark": lambda: aardvark(1e-2, layers=STACKED),
    "aardvark, adaptive": lambda: aardvark(1e-2, scaling="adaptive", layers=STACKED),
    "aardvark, by tensor": lambda: aardvark(1e-2, clip_mode="per_tensor", layers=STACKED),
    "clipped SGD": lambda: optax.chain(clip_by_layer_norm(1.0, layers=STACKED), optax.sgd(1e-2)),
    "clipped groups": lambda: stratify(
        {"head": 2.0, ".*": 1.0}, STACKED, learning_rate=1e-2, clip=0.5
    ),
    "guarded Adam": lambda: skip_nonfinite(optax.adam(1e-2)),
    "guarded Adam, by updates": lambda: skip_nonfinite(optax.adam(1e-2), check="updates"),
    "loss scale": lambda: dynamic_loss_scale(stratopt(1e-2, layers=STACKED), initial=1.0),
    "statistics": lambda: record_statistics(aardvark(1e-2, layers=STACKED), layers=STACKED),
}


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)


def parameters() -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def array(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "embed": array(16, 3),
        "layers": {"mlp": array(2, 3, 8), "norm": array(2, 3)},
        "head": array(3, 16),
    }


def state_specs(tx: Any, state: Any, specs: Any) -> Any:
    """Moments are split like their parameters; everything else is whole on every device."""
    return optax.tree.map_params(
        tx, lambda _, spec: spec, state, specs, transform_non_params=lambda _: PartitionSpec()
    )


def steps(tx: Any, params: Any, scales: Any, sharded: Any = lambda step, state: step) -> Any:
    """Some steps, on gradients that are computed of the parameters, a part for a part."""

    def step(params: Any, state: Any, scale: jax.Array) -> tuple[Any, Any]:
        g = jax.tree.map(lambda p: jnp.sin(p * scale), params)
        updates, state = tx.update(g, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    step = jax.jit(sharded(step, state))
    for scale in scales:
        params, state = step(params, state, jnp.float32(scale))
    return params, state


def on(mesh: Mesh, tx: Any, specs: Any = SPECS, **options: Any) -> Any:
    """Makes a step one of parts."""

    def sharded(step: Any, state: Any) -> Any:
        of_state = state_specs(tx, state, specs)
        return jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(specs, of_state, PartitionSpec()),
            out_specs=(specs, of_state),
            **options,
        )

    return sharded


@pytest.mark.parametrize(
    "name", fast(OPTIMIZERS, "stratopt", "aardvark", "clipped groups", "guarded Adam")
)
def test_steps_on_parts_are_those_on_whole_arrays(name: str, mesh: Mesh) -> None:
    """And what the state keeps by layer is known to be the same on every device."""
    tx, params = OPTIMIZERS[name](), parameters()
    scales = (0.3, 1.0, 2.0, 3.0)
    expected = steps(tx, params, scales)
    found = steps(tx, params, scales, on(mesh, tx))
    chex.assert_trees_all_close(found, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["stratopt, guarded", "aardvark", "guarded Adam", "guarded Adam, by updates"]
)
def test_one_part_that_is_not_finite_skips_the_step_on_all_devices(name: str, mesh: Mesh) -> None:
    tx, params = OPTIMIZERS[name](), parameters()
    params["embed"] = params["embed"].at[9, 1].set(jnp.inf)  # sin(inf) is NaN, in one of 8 parts
    after, state = steps(tx, params, (1.0, 2.0), on(mesh, tx))
    chex.assert_trees_all_equal(after, params)
    assert skip_counts(state) == (2, 2)


def test_repairs_are_counted_on_all_devices_if_on_one(mesh: Mesh) -> None:
    tx, params = optax.chain(repair_nonfinite(), optax.sgd(0.1)), parameters()
    params["embed"] = params["embed"].at[9, 1].set(jnp.inf)
    _, state = steps(tx, params, (1.0,), on(mesh, tx))
    assert int(find_states(state, RepairNonfiniteState)[0].total) == 1


PARTS = {
    "clip_by_layer_norm": lambda axis: clip_by_layer_norm(0.5, axis_name=axis),
    "scale_by_stratopt": lambda axis: scale_by_stratopt(axis_name=axis),
    "scale_by_aardvark": lambda axis: scale_by_aardvark(clip=0.5, axis_name=axis),
    "skip_nonfinite": lambda axis: skip_nonfinite(optax.adam(0.1), axis_name=axis),
    "repair_nonfinite": lambda axis: optax.chain(repair_nonfinite(axis_name=axis), optax.sgd(0.1)),
    "dynamic_loss_scale": lambda axis: dynamic_loss_scale(
        optax.sgd(0.1), initial=1.0, axis_name=axis
    ),
}
SPLIT = {"embed": PartitionSpec("fsdp"), "head": PartitionSpec(None, "fsdp")}


@pytest.mark.parametrize("bad", [False, True])
@pytest.mark.parametrize("name", fast(PARTS, "clip_by_layer_norm", "scale_by_aardvark"))
def test_where_types_are_not_told_the_axis_is(name: str, bad: bool, mesh: Mesh) -> None:
    params = {name: parameters()[name] for name in SPLIT}
    if bad:
        params["embed"] = params["embed"].at[9, 1].set(jnp.nan)
    expected = steps(PARTS[name](None), params, (0.5, 1.0))
    tx = PARTS[name]("fsdp")
    found = steps(tx, params, (0.5, 1.0), on(mesh, tx, SPLIT, check_vma=False))
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)


def test_without_either_every_device_would_clip_by_its_own_norm(mesh: Mesh) -> None:
    """What axis_name is for: the test above can fail."""
    params = {name: parameters()[name] for name in SPLIT}
    tx = PARTS["clip_by_layer_norm"](None)
    expected, _ = steps(tx, params, (1.0,))
    found, _ = steps(tx, params, (1.0,), on(mesh, tx, SPLIT, check_vma=False))
    assert float(jnp.abs(found["embed"] - expected["embed"]).max()) > 1e-2


@pytest.mark.parametrize("axis_name", fast([None, "fsdp", ("fsdp", "tensor")], "fsdp"))
@pytest.mark.parametrize("reduce", fast(["joint", "mean"], "joint"))
def test_types_that_are_told_are_believed_and_what_is_whole_counts_once(
    reduce: Any, axis_name: Any, mesh: Mesh
) -> None:
    params = parameters()
    expected = norms_by_layer_type(params, reduce=reduce, layers=STACKED)
    found = jax.shard_map(
        lambda tree: norms_by_layer_type(tree, reduce=reduce, layers=STACKED, axis_name=axis_name),
        mesh=mesh,
        in_specs=(SPECS,),
        out_specs=PartitionSpec(),
    )(params)
    chex.assert_trees_all_close(found, expected, rtol=1e-6)


@pytest.mark.slow
def test_parts_of_large_numbers_have_a_norm_too(mesh: Mesh) -> None:
    large = jax.tree.map(lambda x: x * 1e25, parameters())
    expected = norms_by_layer_type(large, layers=STACKED)
    found = jax.shard_map(
        lambda tree: norms_by_layer_type(tree, layers=STACKED),
        mesh=mesh,
        in_specs=(SPECS,),
        out_specs=PartitionSpec(),
    )(large)
    chex.assert_trees_all_close(found, expected, rtol=1e-6)


def test_a_named_axis_of_vmap_counts_as_one_of_the_mesh() -> None:
    tree = {"mlp": jnp.arange(8.0).reshape(4, 2)}
    norms = jax.vmap(lambda t: norms_by_layer_type(t, axis_name="d"), axis_name="d")(tree)
    np.testing.assert_allclose(norms["mlp"], float(jnp.linalg.norm(tree["mlp"])), rtol=1e-6)


FACTORED = {
    "stratopt": lambda **options: scale_by_stratopt(second_moment="factored", **options),
    "aardvark": lambda **options: scale_by_aardvark(second_moment="factored", **options),
}
REFUSED = r"needs whole matrices, but head is split over the mesh axes fsdp inside shard_map"


@pytest.mark.parametrize(
    "spec", fast([PartitionSpec("fsdp"), PartitionSpec(None, "fsdp")], PartitionSpec("fsdp"))
)
@pytest.mark.parametrize("name", FACTORED)
def test_a_split_matrix_has_no_factored_moments(name: str, spec: Any, mesh: Mesh) -> None:
    """Its rows or its columns would be means over one device's part."""
    tx, params = FACTORED[name](), {"head": jnp.ones((8, 8))}
    split = {"mesh": mesh, "in_specs": spec, "out_specs": PartitionSpec()}
    with pytest.raises(ValueError, match=REFUSED):
        jax.shard_map(lambda p: tx.init(p).count, **split)(params)
    whole = jax.tree.map(lambda p: p[:2] if spec[0] else p[:, :2], params)
    state = tx.init(whole)  # of the shape of a part, as if it were whole
    with pytest.raises(ValueError, match=REFUSED):
        jax.shard_map(lambda g: tx.update(g, state)[1].count, **split)(params)


@pytest.mark.parametrize("name", FACTORED)
def test_factored_moments_with_axis_name_are_refused_where_types_are_not_told(
    name: str, mesh: Mesh
) -> None:
    tx, params = FACTORED[name](axis_name="fsdp"), {"head": jnp.ones((8, 8))}
    step = jax.shard_map(
        lambda g: tx.update(g, tx.init(g))[0],
        mesh=mesh,
        in_specs=PartitionSpec("fsdp"),
        out_specs=PartitionSpec("fsdp"),
        check_vma=False,
    )
    with pytest.raises(ValueError, match=REFUSED):
        step(params)


@pytest.mark.slow
@pytest.mark.parametrize("axis_name", [None, "fsdp"])
@pytest.mark.parametrize("name", FACTORED)
def test_whole_matrices_beside_split_vectors_have_factored_moments(
    name: str, axis_name: Any, mesh: Mesh
) -> None:
    tx = FACTORED[name](axis_name=axis_name)
    specs = {"head": PartitionSpec(), "norm": PartitionSpec("fsdp")}
    rng = np.random.default_rng(0)
    params = {
        "head": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32),
        "norm": jnp.asarray(rng.normal(size=8), jnp.float32),
    }
    expected, _ = FACTORED[name]().update(params, FACTORED[name]().init(params))
    found = jax.shard_map(
        lambda g: tx.update(g, tx.init(g))[0], mesh=mesh, in_specs=(specs,), out_specs=specs
    )(params)
    chex.assert_trees_all_close(found, expected, rtol=1e-5)
