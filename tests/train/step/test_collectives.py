"""What devices tell each other in a step: counted in the compiled program, and bounded."""

import collections
import dataclasses
import functools
import re

import jax
import optax
import pytest

import models
from tests.support import tiny
from tests.support.donated import overflow_branches
from train.config.run import MeshConfig
from train.experiments.costs.hlo import COLLECTIVES, parse, size
from train.optimizers import Aardvark, AdamW, StratOpt
from train.step.optimizer import build_optimizer
from train.step.program import compile_ahead
from train.step.sharding import make_mesh, tracing_on
from train.step.state import abstract_state
from train.tasks import task_of

FSDP = MeshConfig(data=1, fsdp=8)
MATRICES = 7
"""Of a layer: four of the attention, three of the MLP."""


def model(layers, *, unrolled):
    return dataclasses.replace(
        tiny.MODEL, layers=layers, d_model=32, scan_unroll=layers if unrolled else 1
    )


def collectives(compiled):
    """How many operations of each kind there are in a program; those of a loop count once."""
    operation = rf" ({'|'.join(COLLECTIVES)})(?:-start)?\("
    found = collections.Counter(re.findall(operation, compiled.as_text()))
    found["all-reduce"] -= overflow_branches(compiled, "all-reduce")
    return found


@functools.cache
def step(optimizer, layers=2, *, unrolled=False, mesh=FSDP):
    """The compiled train step."""
    config = tiny.run_config(
        "no data", optimizer=optimizer, model=model(layers, unrolled=unrolled), mesh=mesh
    )
    return compile_ahead(config, task_of(config), make_mesh(mesh))


def update(optimizer, layers=2):
    """The compiled update alone, of sharded gradients."""
    config = tiny.run_config("no data", optimizer=optimizer, model=model(layers, unrolled=False))
    transformation = build_optimizer(optimizer, config.schedule, config.steps).transformation
    mesh = make_mesh(FSDP)
    target = abstract_state(task_of(config), transformation, mesh)

    def new_params(grads, state, params):
        updates, state = transformation.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    out = jax.tree.map(lambda leaf: leaf.sharding, (target.params, target.opt_state))
    with tracing_on(mesh):
        lowered = jax.jit(new_params, out_shardings=out).lower(
            target.params, target.opt_state, target.params
        )
    return lowered.compile()


ours = pytest.mark.parametrize("optimizer", [StratOpt(), Aardvark()], ids=tiny.optimizer_name)


@ours
@pytest.mark.parametrize("layers", [2, 4])
def test_an_update_tells_all_norms_of_all_layers_at_once_and_gathers_nothing(optimizer, layers):
    assert collectives(update(optimizer, layers)) == {"all-reduce": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [StratOpt(second_moment="factored"), Aardvark(second_moment="factored")],
    ids=tiny.optimizer_name,
)
def test_factored_statistics_gather_rows_and_columns_as_often_for_any_number_of_layers(optimizer):
    programs = [update(optimizer, layers) for layers in (2, 4)]
    two, four = map(collectives, programs)
    assert two == four
    assert set(two) == {"all-reduce", "all-gather"}
    computations, _ = parse(programs[0].as_text())
    operations = [each for found in computations.values() for each in found.values()]
    gathered = sum(size(each.type) for each in operations if each.op == "all-gather")
    assert gathered < 0.05 * 4 * models.parameter_count(model(2, unrolled=False)).total


@ours
def test_a_step_has_no_more_collectives_than_clipped_adamws(optimizer):
    found, rival = collectives(step(optimizer)), collectives(step(AdamW()))
    assert found.keys() == rival.keys()
    assert all(found[kind] <= rival[kind] for kind in found)


@pytest.mark.slow
@pytest.mark.parametrize("unrolled", [False, True], ids=["scanned", "unrolled"])
def test_a_steps_all_reduces_do_not_grow_with_the_layers(unrolled):
    two, four = (collectives(step(StratOpt(), n, unrolled=unrolled)) for n in (2, 4))
    assert two["all-reduce"] == four["all-reduce"]


@pytest.mark.slow
def test_a_step_gathers_each_matrix_for_its_forward_and_its_backward_pass_and_no_more():
    two, four = (collectives(step(StratOpt(), n, unrolled=True)) for n in (2, 4))
    assert four["all-gather"] - two["all-gather"] == 2 * 2 * MATRICES
    assert two["all-gather"] <= 2 * (2 * MATRICES + 2)  # Embedding and head.


@ours
def test_nothing_large_is_whole_on_a_device_before_or_after_a_step(optimizer):
    compiled = step(optimizer)
    (state, _), _ = compiled.input_shardings
    before, after = jax.tree.leaves(state), jax.tree.leaves(compiled.output_shardings[0])
    sizes = [leaf.size for leaf in jax.tree.leaves(compiled.out_info[0])]
    # A norm's scale is left whole: it is not worth a message.
    large = [index for index, size in enumerate(sizes) if size > 8 * tiny.MODEL.context]
    assert len(large) == 3 * (MATRICES + 2)  # Parameters and two moments.
    for index in large:
        assert not before[index].is_fully_replicated
        assert not after[index].is_fully_replicated
        shape = jax.tree.leaves(compiled.out_info[0])[index].shape
        assert after[index].shard_shape(shape) == before[index].shard_shape(shape)
