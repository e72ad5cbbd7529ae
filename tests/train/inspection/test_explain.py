"""What an optimizer will do to a model is read off the optimizer and the mesh themselves."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

import models
from tests.support import tiny
from train.config.run import MeshConfig
from train.inspection.explain import explain
from train.optimizers import Aardvark, AdamW, Muon


def explained(tmp_path, optimizer, **changes):
    return explain(tiny.run_config(tmp_path, optimizer=optimizer, **changes))


def fields(explanation):
    return [(part.state.rpartition(" / ")[2], part.field) for part in explanation.state]


def test_settings_are_all_that_the_optimizer_was_built_with(tmp_path):
    settings = explained(tmp_path, AdamW(b2=0.95, clip=None)).settings
    assert (settings["b1"], settings["b2"], settings["clip"]) == (0.9, 0.95, None)


def test_state_is_that_of_the_transformations_in_the_chain_with_its_size(tmp_path):
    explanation = explained(tmp_path, AdamW())
    assert fields(explanation)[-3:] == [
        ("ScaleByAdamState", "mu"),
        ("ScaleByAdamState", "nu"),
        ("ScaleByScheduleState", "count"),
    ]
    assert explanation.state[0].state == "SkipNonfiniteState"
    parameters = models.parameter_count(tiny.MODEL).total
    moments = [part for part in explanation.state if part.field in ("mu", "nu")]
    assert [part.bytes for part in moments] == [4 * parameters] * 2
    total = sum(part.bytes for part in explanation.state)
    assert explanation.state_bytes_per_parameter == pytest.approx(total / parameters)


def test_groups_of_a_partition_have_states_of_their_own(tmp_path):
    states = [state for state, _ in fields(explained(tmp_path, Muon()))]
    assert "MuonState" in " ".join(states)
    assert "ScaleByAdamState" in states


def test_multipliers_and_decay_are_those_of_the_update(tmp_path):
    config = tiny.run_config(tmp_path, optimizer=Aardvark(scaling="normalized", head=3.0))
    parameters = explain(config).parameters
    mean = sum(parameter.share * parameter.multiplier for parameter in parameters)
    assert mean == pytest.approx(1.0)
    by_type = {parameter.layer_type: parameter.multiplier for parameter in parameters}
    assert by_type["head"] / by_type["mlp"] == pytest.approx(3.0 / 1.2)
    assert {parameter.decays for parameter in parameters if parameter.layer_type == "norm"} == {
        False
    }
    without = explained(tmp_path, Aardvark(weight_decay=0.0)).parameters
    assert not any(parameter.decays for parameter in without)


def test_shardings_are_those_of_the_run(tmp_path):
    parameters = explained(tmp_path, AdamW(), mesh=MeshConfig(data=2, fsdp=4)).parameters
    shapes = jax.eval_shape(lambda: models.init(tiny.MODEL, jax.random.key(0)))
    assert [parameter.shape for parameter in parameters] == [
        x.shape for x in jax.tree.leaves(shapes)
    ]
    for parameter in parameters:
        split = [axis == "fsdp" for axis in parameter.sharding]
        assert sum(split) == (parameter.layer_type != "norm")
        whole, held = jnp.prod(jnp.array(parameter.shape)), parameter.shape_on_device
        assert whole == jnp.prod(jnp.array(held)) * 4 ** sum(split)


def test_an_explanation_is_json(tmp_path):
    explanation = explained(tmp_path, Muon())
    assert json.loads(json.dumps(dataclasses.asdict(explanation)))["optimizer"] == "muon"


def test_the_command_shows_tables_for_people(capsys):
    from train.cli.main import main

    main(["explain", "nano", "optimizer:aardvark", "--mesh.fsdp", "2"])
    printed = capsys.readouterr().out
    assert "256 x 64:fsdp" in printed
    assert "b1=0.9, b2=0.999" in printed
    assert "mu" in printed
    assert all(len(line) <= 80 for line in printed.splitlines())
