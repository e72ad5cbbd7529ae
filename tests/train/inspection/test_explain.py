"""What an optimizer will do to a model is read off the optimizer and the mesh themselves."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import optax
import pytest

import models
from tests.support import tiny
from train.config.run import MeshConfig
from train.inspection.explain import explain, links
from train.optimizers import Aardvark, AdamW, Muon, StratOpt


def names(chain):
    return [name for link in chain for name in (link.name, *names(link.parts))]


def explained(tmp_path, optimizer, **changes):
    return explain(tiny.run_config(tmp_path, optimizer=optimizer, **changes))


def test_the_chain_is_the_one_that_runs_with_its_own_numbers(tmp_path):
    (guard,) = explained(tmp_path, AdamW(b2=0.95, weight_decay=0.3, clip=0.5)).chain
    clip, adam, decay, rate = guard.parts
    assert (clip.name, clip.settings) == ("clip_by_global_norm", {"max_norm": 0.5})
    assert (adam.name, adam.settings["b2"]) == ("scale_by_adam", 0.95)
    assert (decay.settings["mask"], decay.parts[0].settings) == ("decays", {"weight_decay": 0.3})
    assert rate.name == "scale_by_schedule"


def test_a_part_that_is_switched_off_is_not_in_the_chain(tmp_path):
    assert "clip_by_global_norm" not in names(explained(tmp_path, AdamW(clip=None)).chain)
    assert names(explained(tmp_path, StratOpt(nonfinite=None)).chain)[0] == "scale_by_stratopt"


def test_groups_of_a_partition_have_their_own_chains(tmp_path):
    chain = names(explained(tmp_path, Muon()).chain)
    hidden, others = chain.index("attention+mlp"), chain.index("embedding+head+norm+bias+other")
    assert hidden < chain.index("scale_by_muon") < others < chain.index("scale_by_adam")


def test_a_transformation_that_is_no_closure_is_one_link():
    class Own:
        def __call__(self, updates, state, params=None):
            return updates, state

    (link,) = links(optax.GradientTransformation(lambda params: (), Own()))
    assert (link.name, link.parts) == ("Own", ())


def test_multipliers_and_decay_are_those_of_the_update(tmp_path):
    config = tiny.run_config(tmp_path, optimizer=Aardvark(scaling="normalized", head=3.0))
    found = explain(config).parameters
    mean = sum(parameter.share * parameter.multiplier for parameter in found)
    assert mean == pytest.approx(1.0)
    by_type = {parameter.layer_type: parameter.multiplier for parameter in found}
    assert by_type["head"] / by_type["mlp"] == pytest.approx(3.0 / 1.2)
    assert {parameter.decays for parameter in found if parameter.layer_type == "norm"} == {False}
    without = explained(tmp_path, Aardvark(weight_decay=0.0)).parameters
    assert not any(parameter.decays for parameter in without)


def test_shardings_are_those_of_the_run(tmp_path):
    found = explained(tmp_path, AdamW(), mesh=MeshConfig(data=2, fsdp=4)).parameters
    shapes = jax.eval_shape(lambda: models.init(tiny.MODEL, jax.random.key(0)))
    assert [parameter.shape for parameter in found] == [x.shape for x in jax.tree.leaves(shapes)]
    for parameter in found:
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
    assert "scale_by_aardvark  b1=0.9, b2=0.999, clip=1.0" in printed
    assert all(len(line) <= 80 for line in printed.splitlines())
