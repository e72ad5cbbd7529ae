"""`--mesh.axes explicit`: the same training, with JAX checking shardings as types."""

import dataclasses

import chex
import jax
import pytest
from jax.sharding import AxisType

from tests.support import tiny
from tests.train.step.test_collectives import FSDP, collectives, step
from tests.train.step.test_sharding import FAST, MESHES, check_same_training, trained
from train.optimizers import Adafactor, Muon, StratOpt
from train.run.checkpoints import Checkpointer
from train.run.training_clock import NOTHING_SPENT

CHECKED_BY_TYPES = dataclasses.replace(MESHES["all three axes"], axes="explicit")
STRATOPT, AARDVARK = FAST


def test_training_with_shardings_checked_by_types_is_the_same_training():
    check_same_training(STRATOPT, CHECKED_BY_TYPES)
    program = trained(STRATOPT, CHECKED_BY_TYPES)[0]
    assert program.mesh.axis_types == (AxisType.Explicit,) * 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Adafactor, Muon])
def test_an_optimizer_whose_types_would_be_ambiguous_trains_with_them_too(kind):
    (optimizer,) = (optimizer for optimizer in tiny.OPTIMIZERS if type(optimizer) is kind)
    check_same_training(optimizer, CHECKED_BY_TYPES)


@pytest.mark.slow
def test_chunks_of_the_loss_and_micro_batches_train_the_same_with_shardings_in_types():
    check_same_training(AARDVARK, CHECKED_BY_TYPES, accumulate=2)


@pytest.mark.slow
def test_a_checkpoint_moves_between_the_kinds_of_axes(tmp_path):
    _, _, state, _ = trained(STRATOPT, MESHES["all three axes"])
    explicit = trained(STRATOPT, CHECKED_BY_TYPES)[0]
    identity = {"config_hash": "a", "fingerprint": "b", "seed": 0}
    writer = Checkpointer(tmp_path, **identity)
    writer.save(4, state, NOTHING_SPENT)
    writer.close()
    reader = Checkpointer(tmp_path, **identity)
    restored = reader.restore(explicit.target).state
    reader.close()
    chex.assert_trees_all_equal(jax.device_get(restored), jax.device_get(state))
    for leaf, target in zip(
        jax.tree.leaves(restored), jax.tree.leaves(explicit.target), strict=True
    ):
        assert leaf.sharding == target.sharding


@pytest.mark.slow
def test_axes_checked_by_types_cost_one_all_reduce_at_most():
    found = collectives(step(StratOpt(), mesh=dataclasses.replace(FSDP, axes="explicit")))
    automatic = collectives(step(StratOpt()))
    assert found["all-reduce"] <= automatic["all-reduce"] + 1  # The loss, apart from the norms.
    assert found["all-gather"] == automatic["all-gather"]
