"""Micro-batches one after the other give the step of the whole batch."""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import tiny
from train.config.run import MeshConfig
from train.data import Batch
from train.step.accumulation import check_micro_batches, mean_loss_and_gradient
from train.step.program import build_program
from train.step.sharding import make_mesh
from train.tasks import task_of


def batch_of(seed):
    """Rows of very different weight: a mean of micro-batches' means would be another number."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(tiny.MODEL.vocab_size, size=(16, 17), dtype=np.int32)
    weights = (np.arange(16) < rng.integers(1, 16, size=(16, 1))).astype(np.float32)
    return Batch(tokens[:, :-1], tokens[:, 1:], weights)


def program_of(cache, **changes):
    config = tiny.run_config(cache, batch_size=16, **changes)
    return build_program(config, task_of(config))


def three_steps(program):
    state, losses = program.init(seed=0), []
    for seed in range(3):
        state, metrics = program.train_step(state, batch_of(seed))
        losses.append(jax.device_get(metrics["loss"]))
    return jax.device_get(state.params), np.array(losses)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return three_steps(program_of(tmp_path_factory.mktemp("cache"), mesh=MeshConfig(data=8)))


@pytest.mark.parametrize("mesh", [MeshConfig(data=8), MeshConfig(data=1, fsdp=8)], ids=str)
def test_two_micro_batches_of_unequal_weight_make_the_step_of_the_whole(tmp_path, whole, mesh):
    found = three_steps(program_of(tmp_path, mesh=mesh, accumulate=2))
    chex.assert_trees_all_close(found, whole, rtol=2e-5, atol=2e-5)


def test_no_row_leaves_its_device_and_the_state_is_donated(tmp_path):
    program = program_of(tmp_path, mesh=MeshConfig(data=8), accumulate=2)
    text = program._train_step.as_text()
    assert not re.search(r"(all-to-all|collective-permute|all-gather)(-start)?\(", text)
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(program.target))
    assert program._train_step.memory_analysis().alias_size_in_bytes >= state


def test_activations_of_one_micro_batch_alone_are_in_memory():
    params = jnp.ones((1, 256)), jnp.ones((256, 1))
    batch = Batch(jnp.ones((1024, 1)), None, jnp.ones((1024, 1)))

    def summed_loss(params, batch):
        into, out = params
        losses = jax.nn.silu(batch.inputs_BT @ into) @ out
        return (losses * batch.weights_BT).sum(), batch.weights_BT.sum()

    def temporary_bytes(micro_batches):
        step = jax.jit(partial(mean_loss_and_gradient, summed_loss, micro_batches=micro_batches))
        return step.lower(params, batch).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(8) < temporary_bytes(1) / 4


def test_micro_batches_that_do_not_divide_are_refused(tmp_path):
    with pytest.raises(ValueError, match="accumulate=3 does not divide batch_size=16"):
        tiny.run_config(tmp_path, batch_size=16, accumulate=3)
    mesh = make_mesh(MeshConfig(data=8))
    with pytest.raises(ValueError, match=r"accumulate=4 .* the 2 sequences of a device.* 1, 2\."):
        check_micro_batches(16, 4, mesh)
    check_micro_batches(16, 2, mesh)
