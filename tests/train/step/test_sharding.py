"""Meshes, where the state lives on them, and that whole training on one equals that without."""

import dataclasses
import functools

import chex
import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import models
from tests.support import tiny
from train.config.run import MeshConfig
from train.data import Batch
from train.optimizers import Aardvark, AdamW, StratOpt
from train.step.optimizer import build_optimizer
from train.step.program import build_program
from train.step.sharding import batch_sharding, make_mesh, parameter_shardings, process_share
from train.step.state import abstract_state, init_state, state_bytes
from train.tasks import task_of

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


@pytest.mark.parametrize(
    ("asked", "devices", "needs", "fitting"),
    [
        (MeshConfig(fsdp=8), 4, "data=1 x fsdp=8 x tensor=1 needs 8", "--mesh.fsdp 4"),
        (MeshConfig(data=1, fsdp=3), 8, "fsdp=3 x tensor=1 needs 3", "--mesh.data 4 --mesh.fsdp 2"),
        (MeshConfig(data=8, tensor=3), 6, "tensor=3 needs 24", "--mesh.data 2"),
        (MeshConfig(data=0), 8, "data=0 x fsdp=1 x tensor=1 needs 0", "--mesh.data 8"),
    ],
)
def test_a_mesh_of_another_size_than_the_devices_is_refused_with_one_that_fits(
    asked, devices, needs, fitting
):
    sentence = f"mesh .*{needs} devices and {devices} are in use: a mesh that fits is {fitting}."
    with pytest.raises(ValueError, match=sentence):
        make_mesh(asked, jax.devices()[:devices])


def test_a_batch_that_does_not_divide_is_refused_with_what_would():
    sentence = "batch_size=12 does not divide over data x fsdp = 8 .* among 1, 2, 3, 4, 6; --mesh.t"
    with pytest.raises(ValueError, match=sentence):
        batch_sharding(make_mesh(MeshConfig(fsdp=2)), 12)


@pytest.mark.parametrize(
    ("model", "mesh", "sentence"),
    [
        ({"d_model": 20, "heads": 2}, MeshConfig(fsdp=8), "fsdp=8 does not divide embed=20 of embe"
         "d/embedding: choose --mesh.fsdp among 1, 2, 4, 5"),
        ({}, MeshConfig(tensor=4), "tensor=4 does not divide kv_heads=2 of layers/attention/key/ker"
         "nel: choose --mesh.tensor among 1, 2"),
        ({"vocab_size": 250, "kv_heads": 4}, MeshConfig(tensor=4), "tensor=4 does not divide vocab="
         "250 of embed/embedding: choose --mesh.tensor among 1, 2"),
        ({"d_ff": 30, "kv_heads": 4}, MeshConfig(tensor=4), "tensor=4 does not divide mlp=30 of lay"
         "ers/mlp/down/kernel: choose --mesh.tensor among 1, 2"),
        # 3 divides the MLP, and 2 the heads, but neither divides both.
        ({"d_ff": 45}, MeshConfig(tensor=2), "tensor=2 does not divide mlp=45 of layers/mlp/down/ke"
         r"rnel: choose --mesh.tensor among 1\."),
    ],
)  # fmt: skip
def test_a_dim_that_does_not_divide_is_refused_with_the_sizes_that_divide_all(
    model, mesh, sentence
):
    config = dataclasses.replace(tiny.MODEL, **model)
    shapes = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    with pytest.raises(ValueError, match=f"mesh axis {sentence}"):
        parameter_shardings(make_mesh(mesh), models.logical_axes(config), shapes)


def test_processes_that_share_rows_read_the_same_and_others_their_own():
    mesh, devices = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)), jax.devices()

    def shares(per_process):
        starts = range(0, 8, per_process)
        found = [process_share(mesh, 8, devices[i : i + per_process]) for i in starts]
        return [(share["process_index"], share["process_count"]) for share in found]

    assert shares(8) == [(0, 1)]
    assert shares(4) == [(0, 2), (1, 2)]
    assert shares(2) == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert shares(1) == [(0, 4), (0, 4), (1, 4), (1, 4), (2, 4), (2, 4), (3, 4), (3, 4)]


def test_a_process_whose_rows_are_no_equal_share_is_refused_with_the_way_out():
    mesh = make_mesh(MeshConfig(data=3, tensor=2), jax.devices()[:6])
    sentence = "the 3 devices of process 0 .* not one equal share: choose mesh sizes that divide 3"
    with pytest.raises(ValueError, match=sentence):
        process_share(mesh, 6, jax.devices()[:3])


def test_more_processes_than_rows_are_refused_with_the_way_out():
    mesh = make_mesh(MeshConfig(data=8))
    sentence = "batch_size=4 does not divide over .* = 8 .*a multiple of 8 rows, or .* 1, 2, 4; "
    with pytest.raises(ValueError, match=sentence):
        process_share(mesh, 4, jax.devices()[:1])
    shared = make_mesh(MeshConfig(data=4, tensor=2))  # The way out.
    assert process_share(shared, 4, jax.devices()[1:2]) == {"process_index": 0, "process_count": 4}


@pytest.mark.parametrize("optimizer", tiny.OPTIMIZERS, ids=tiny.optimizer_name)
def test_state_of_a_parameters_shape_lives_where_the_parameter_lives(tmp_path, optimizer):
    mesh = mesh_of(MESHES["all three axes"])
    config = tiny.run_config(tmp_path, optimizer=optimizer)
    tx = build_optimizer(config.optimizer, config.schedule, config.steps).transformation
    target = abstract_state(tiny.TASK, tx, mesh)
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
    alone = init_state(tiny.TASK, tx, mesh_of(MESHES["one device"]), seed=3)
    state = init_state(tiny.TASK, tx, mesh_of(MESHES[mesh]), seed=3)
    chex.assert_trees_all_close(
        jax.device_get(state.params), jax.device_get(alone.params), rtol=1e-6
    )


CLIPS = {"clip": 0.1}  # The norms of these gradients are above it.


@functools.cache
def trained(optimizer, mesh, accumulate=1):
    """Losses, metrics and the last state of some steps on a mesh, and where its leaves lay."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(tiny.MODEL.vocab_size, size=(8, 17), dtype=np.int32)
    weights = rng.integers(2, size=(8, 16)).astype(np.float32)
    batch = Batch(tokens[:, :-1], tokens[:, 1:], weights)
    config = tiny.run_config(
        "no data", optimizer=optimizer, mesh=mesh, accumulate=accumulate,
        loss_chunk=8 if accumulate > 1 else None,
        model=dataclasses.replace(tiny.MODEL, scan_unroll=1),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.step.program.make_mesh", mesh_of)
        program = build_program(config, task_of(config))
    state, seen = program.init(seed=0), []
    for _ in range(4):
        state, metrics = program.train_step(state, batch)
        seen.append(jax.device_get(metrics))
    return program, seen, state, program.evaluate(state.params, [batch])


def check_same_training(optimizer, mesh, accumulate=1):
    _, metrics_alone, state_alone, loss_alone = trained(optimizer, MESHES["one device"], accumulate)
    program, metrics, state, loss = trained(optimizer, mesh, accumulate)
    assert metrics_alone[-1]["loss"] < metrics_alone[0]["loss"]
    chex.assert_trees_all_close(metrics, metrics_alone, rtol=3e-4, atol=1e-6)
    np.testing.assert_allclose(loss, loss_alone, rtol=3e-5)
    # Adam's direction is that of a sign where a gradient is nearly zero: rounding can turn it.
    chex.assert_trees_all_close(
        jax.device_get(state.params), jax.device_get(state_alone.params), rtol=1e-3, atol=1e-4
    )
    assert state_bytes(state.opt_state) == state_bytes(state_alone.opt_state)
    for leaf, target in zip(jax.tree.leaves(state), jax.tree.leaves(program.target), strict=True):
        assert leaf.sharding == target.sharding
    assert loss < metrics[0]["loss"]


FAST = [
    StratOpt(learning_rate=3e-3, layer_clip=0.02),
    Aardvark(learning_rate=1e-2, second_moment="factored", **CLIPS),
]
COVERED = {type(optimizer) for optimizer in FAST}


@pytest.mark.parametrize("optimizer", FAST, ids=tiny.optimizer_name)
def test_sharded_training_equals_unsharded_training(optimizer):
    check_same_training(optimizer, MESHES["all three axes"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [
        AdamW(learning_rate=1e-2, **CLIPS),
        *(optimizer for optimizer in tiny.OPTIMIZERS[1:] if type(optimizer) not in COVERED),
        StratOpt(
            learning_rate=3e-3, second_moment="factored", stratum="type", reference="global_ema"
        ),
    ],
    ids=tiny.optimizer_name,
)
def test_sharded_training_equals_unsharded_training_for_every_optimizer(optimizer):
    check_same_training(optimizer, MESHES["all three axes"])
