"""Meshes and where the state lives: like its parameter, and nothing large on every device."""

import dataclasses

import chex
import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import models
from tests import tiny
from train.config import MeshConfig
from train.data import Batch
from train.optimizers import build_optimizer
from train.program import build_program
from train.sharding import batch_sharding, make_mesh, parameter_shardings
from train.state import abstract_state, init_state, state_bytes

MESHES = {
    "one device": MeshConfig(data=1),
    "data": MeshConfig(data=8),
    "fsdp": MeshConfig(data=1, fsdp=8),
    "all three axes": MeshConfig(data=2, fsdp=2, tensor=2),
}


def mesh_of(config):
    count = (config.data or 1) * config.fsdp * config.tensor
    return make_mesh(config, jax.devices()[:count])


def test_data_takes_the_devices_that_the_other_axes_leave():
    assert make_mesh(MeshConfig(fsdp=2, tensor=2)).shape == {"data": 2, "fsdp": 2, "tensor": 2}


def test_a_mesh_of_another_size_than_the_devices_is_refused():
    with pytest.raises(ValueError, match="data=1 x fsdp=3 x tensor=1 needs 3 devices and 8 are in"):
        make_mesh(MeshConfig(data=1, fsdp=3))


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="batch_size=12 does not divide over data x fsdp = 8"):
        batch_sharding(make_mesh(MeshConfig(fsdp=2)), 12)


def test_a_dim_that_does_not_divide_is_refused_by_name():
    mesh = make_mesh(MeshConfig(data=1, fsdp=8))
    model = dataclasses.replace(tiny.MODEL, d_model=20, heads=2)
    shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
    with pytest.raises(ValueError, match="fsdp=8 does not divide embed=20 of embed/embedding"):
        parameter_shardings(mesh, models.logical_axes(model), shapes)


@pytest.mark.parametrize("optimizer", tiny.OPTIMIZERS, ids=tiny.optimizer_name)
def test_state_of_a_parameters_shape_lives_where_the_parameter_lives(tmp_path, optimizer):
    mesh = mesh_of(MESHES["all three axes"])
    config = tiny.run_config(tmp_path, optimizer=optimizer)
    tx = build_optimizer(config.optimizer, config.schedule, config.steps).transformation
    target = abstract_state(tiny.MODEL, tx, mesh)
    by_shape = {leaf.shape: leaf.sharding.spec for leaf in jax.tree.leaves(target.params)}
    for leaf in jax.tree.leaves(target.opt_state):
        assert leaf.sharding.spec in (by_shape.get(leaf.shape), P())
    largest = max(leaf.size for leaf in jax.tree.leaves(target.params))
    replicated = [
        leaf.size for leaf in jax.tree.leaves(target.opt_state) if leaf.sharding.spec == P()
    ]
    assert max(replicated, default=0) < largest / 8


@pytest.mark.parametrize("mesh", ["fsdp", "all three axes"])
def test_a_seed_gives_the_same_parameters_on_every_mesh(tmp_path, mesh):
    tx = optax.sgd(0.1)
    alone = init_state(tiny.MODEL, tx, mesh_of(MESHES["one device"]), seed=3)
    state = init_state(tiny.MODEL, tx, mesh_of(MESHES[mesh]), seed=3)
    chex.assert_trees_all_close(
        jax.device_get(state.params), jax.device_get(alone.params), rtol=1e-6
    )


@pytest.mark.parametrize("optimizer", tiny.OPTIMIZERS, ids=tiny.optimizer_name)
def test_a_sharded_update_equals_an_unsharded_one(tmp_path, optimizer):
    config = tiny.run_config(tmp_path, optimizer=optimizer)
    tx = build_optimizer(config.optimizer, config.schedule, config.steps).transformation
    target = abstract_state(tiny.MODEL, tx, mesh_of(MESHES["all three axes"]))
    placed = jax.tree.map(lambda leaf: leaf.sharding, target)

    def updates_of(place_params, place_state):
        params, update = place_params(tiny.params()), jax.jit(tx.update)
        opt_state, seen = place_state(tx.init(tiny.params())), []
        for step in range(3):
            updates, opt_state = update(place_params(tiny.gradients(step)), opt_state, params)
            seen.append(jax.device_get(updates))
        return seen

    alone = updates_of(lambda tree: tree, lambda state: state)
    sharded = updates_of(
        lambda tree: jax.device_put(tree, placed.params),
        lambda state: jax.device_put(state, placed.opt_state),
    )
    chex.assert_trees_all_close(sharded, alone, rtol=2e-4, atol=2e-7)


@pytest.mark.parametrize("optimizer", [tiny.OPTIMIZERS[-2]], ids=tiny.optimizer_name)
def test_sharded_training_equals_unsharded_training(tmp_path, optimizer, monkeypatch):
    rng = np.random.default_rng(0)
    tokens = rng.integers(tiny.MODEL.vocab_size, size=(8, 17), dtype=np.int32)
    batch = Batch(tokens[:, :-1], tokens[:, 1:], np.ones((8, 16), np.float32))

    def losses(mesh):
        monkeypatch.setattr("train.program.make_mesh", lambda _: mesh_of(mesh))
        program = build_program(tiny.run_config(tmp_path, optimizer=optimizer))
        state, seen = program.init(seed=0), []
        for _ in range(5):
            state, metrics = program.train_step(state, batch)
            seen.append(jax.device_get(metrics["loss"]))
        return np.array(seen), state_bytes(state.opt_state)

    alone, bytes_alone = losses(MESHES["one device"])
    sharded, bytes_sharded = losses(MESHES["all three axes"])
    assert alone[-1] < alone[0]
    np.testing.assert_allclose(sharded, alone, rtol=2e-5)
    assert bytes_sharded == bytes_alone
