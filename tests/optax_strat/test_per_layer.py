"""`per_layer` on meshes with explicit axes, where JAX's `vmap` wants all to be sharded alike."""

import itertools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from optax_strat import Layers, per_layer

LAYERS = Layers(stacked=("layers",))
ON_LAYERS = ("fsdp", None, None)
ON_INPUTS = (None, "fsdp", None)
ON_OUTPUTS = (None, None, "fsdp")
WHOLE = (None, None, None)


def model(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)

    def array(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "layers": {
            "mlp": {"up": array(8, 16, 32), "down": array(8, 32, 16)},
            "norm": {"scale": array(8, 16)},
        },
        "head": array(16, 32),
    }


def steps(tx: Any, params: Any, gs: Any) -> list[Any]:
    """The updates of each step; they and the state keep their types."""
    state, found, step = tx.init(params), [], jax.jit(tx.update)
    for g in gs:
        updates, after = step(g, state, params)
        assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
        assert jax.tree.map(jax.typeof, updates) == jax.tree.map(jax.typeof, g)
        found.append(updates)
        state = after
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "specs",
    [[ON_LAYERS], [ON_INPUTS], [ON_OUTPUTS], [WHOLE, ON_LAYERS, ON_INPUTS, ON_OUTPUTS]],
    ids=["layers", "inputs", "outputs", "each leaf otherwise"],
)
@pytest.mark.parametrize(
    "rule",
    [
        lambda: optax.adafactor(0.1, min_dim_size_to_factor=8, momentum=0.9),
        lambda: optax.chain(optax.scale_by_adam(), optax.scale_by_trust_ratio()),
    ],
    ids=["adafactor", "lamb"],
)
def test_sharded_along_any_axis_the_updates_are_those_of_one_device(
    rule: Any, specs: list[tuple[Any, ...]]
) -> None:
    tx = per_layer(rule(), layers=LAYERS)
    params, gs = model(0), [model(1), model(2)]
    expected = steps(tx, params, gs)
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Explicit,))
    cycle = itertools.cycle(specs)
    places = jax.tree.map(
        lambda x: NamedSharding(mesh, PartitionSpec(*next(cycle)[: x.ndim])), params
    )
    with jax.set_mesh(mesh):
        sharded = [jax.device_put(tree, places) for tree in (params, *gs)]
        found = steps(tx, sharded[0], sharded[1:])
    chex.assert_trees_all_close(jax.device_get(found), expected, rtol=1e-4, atol=1e-6)


def test_the_state_is_sharded_as_the_parameters_that_it_belongs_to() -> None:
    tx = per_layer(optax.adafactor(0.1, min_dim_size_to_factor=8), layers=LAYERS)
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        place = NamedSharding(mesh, PartitionSpec("fsdp", None, "tensor"))
        params = {"layers": {"mlp": jax.device_put(jnp.ones((8, 16, 32)), place)}}
        for init in (tx.init, jax.jit(tx.init)):
            specs = {x.shape: x.sharding.spec for x in jax.tree.leaves(init(params))}
            assert specs[8, 16] == PartitionSpec("fsdp", None)
            assert specs[8, 32] == PartitionSpec("fsdp", "tensor")


def test_extra_arguments_may_be_arrays_and_other_things() -> None:
    def update(updates: Any, state: Any, params: Any = None, *, value: Any, name: str) -> Any:
        assert name == "loss"
        return jax.tree.map(lambda u: u * value, updates), state

    tx = per_layer(
        optax.GradientTransformationExtraArgs(optax.init_empty_state, update), layers=LAYERS
    )
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        place = NamedSharding(mesh, PartitionSpec(*ON_LAYERS))
        tree = {"layers": {"mlp": jax.device_put(jnp.ones((8, 2, 3)), place)}}
        value = jnp.asarray(2.0)
        updates, _ = jax.jit(
            lambda g, value: tx.update(g, tx.init(g), g, value=value, name="loss")
        )(tree, value)
    np.testing.assert_array_equal(updates["layers"]["mlp"], np.full((8, 2, 3), 2.0))
