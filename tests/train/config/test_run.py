"""Configurations refuse what cannot work, in one sentence, and have a name of their own."""

import dataclasses
import functools
import math
import re

import pytest

from tests.support import tiny
from train.config import named
from train.config.comparison import Contestant
from train.config.plain import config_hash, first_difference, run_config, to_dict
from train.config.run import ScheduleConfig
from train.inspection.budget import budget, refuse_unless_accepted
from train.optimizers import Aardvark, AdamW
from train.tasks import task_of


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"optimizer": AdamW(learning_rate=0.0)}, "optimizer.learning_rate=0.0 is not allowed"),
        ({"optimizer": AdamW(learning_rate=math.nan)}, "optimizer.learning_rate=nan"),
        ({"steps": 0}, "steps=0 is not allowed: it must be at least 1"),
        ({"batch_size": -4}, "batch_size=-4"),
        ({"seed": -1}, "seed=-1"),
        ({"eval_batches": 0}, "eval_batches=0"),
        ({"context": 17}, "context=17 is longer than the model's context of 16"),
        ({"schedule": ScheduleConfig(warmup_steps=13)}, "schedule.warmup_steps=13"),
        ({"schedule": ScheduleConfig(warmup_steps=1, final_fraction=2.0)}, "final_fraction=2.0"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_written(tmp_path, change, sentence):
    with pytest.raises(ValueError, match=sentence.replace(".", r"\.")):
        tiny.run_config(tmp_path, **change)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("optimizer.b1", "x", "configuration.optimizer.b1 is 'x', which is no float"),
        ("optimizer.clip", [1.0], "optimizer.clip is [1.0], which is no float"),
        ("optimizer.kind", "SGD", "optimizer is of kind 'SGD', and must be of AdamW, AdEMAMix"),
        ("optimizer.b3", 0.9, "optimizer has a field 'b3', which AdamW has not"),
        ("log_every", 2.5, "log_every is 2.5, which is no int"),
        ("optimizer.b1", 10**400, "optimizer.b1 is too large a number"),
        ("steps", True, "steps is True, which is no int"),
        ("mesh.axes", "wobbly", "mesh.axes is 'wobbly', and must be one of 'auto', 'explicit'"),
        ("schedule.decay", "zigzag", "decay is 'zigzag', and must be one of 'cosine', 'linear'"),
        ("schedule", 3, "schedule is 3, which is no ScheduleConfig"),
        ("model.kind", "DataConfig", "model is of kind 'DataConfig', and must be of Transformer"),
        ("kind", "Comparison", "configuration is of kind 'Comparison', and must be of RunConfig"),
        ("model", None, "model is None, which is no TransformerConfig"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_by_the_setting(path, value, sentence):
    fields = to_dict(named.nano())
    *parents, name = path.split(".")
    functools.reduce(dict.__getitem__, parents, fields)[name] = value
    with pytest.raises(ValueError, match=re.escape(sentence)):
        run_config(fields)


def test_every_setting_changes_the_hash(tmp_path):
    config = tiny.run_config(tmp_path)
    changed = [
        dataclasses.replace(config, seed=1),
        dataclasses.replace(config, optimizer=AdamW(learning_rate=1e-2, b2=0.95)),
        dataclasses.replace(config, model=dataclasses.replace(config.model, d_ff=48)),
    ]
    hashes = {config_hash(config) for config in [config, *changed]}
    assert len(hashes) == 4
    assert config_hash(dataclasses.replace(config)) == config_hash(config)


def test_optimizers_of_equal_fields_do_not_share_a_hash(tmp_path):
    kinds = {to_dict(optimizer)["kind"] for optimizer in tiny.OPTIMIZERS}
    assert len(kinds) == len(tiny.OPTIMIZERS)


def test_a_difference_is_named_by_its_path(tmp_path):
    config = tiny.run_config(tmp_path)
    other = dataclasses.replace(config, optimizer=AdamW(learning_rate=0.5))
    assert first_difference(to_dict(config), to_dict(other)) == (
        "optimizer.learning_rate: 0.01 here, 0.5 there"
    )
    assert first_difference(to_dict(config), to_dict(config)) is None


@pytest.mark.parametrize("name", sorted(named.RUNS))
def test_every_named_run_builds_and_says_what_to_expect(name):
    assert named.RUNS[name]().steps >= 1
    assert len(named.RUNS[name].__doc__) > 40


def test_the_papers_literal_run_is_hundreds_of_gpu_hours_and_must_be_accepted():
    literal = named.paper_literal()
    task = task_of(literal)
    cost = budget(task, literal.steps)
    assert cost.tokens == 100_000 * 1024 * 4096
    assert 300 < cost.a100_hours < 600  # Table 1 prints 19.8
    with pytest.raises(ValueError, match=r"419\.4 billion tokens.*--accept-cost"):
        refuse_unless_accepted(task, literal.steps, accepted=False)
    refuse_unless_accepted(task, literal.steps, accepted=True)


def test_the_consistent_reading_is_twenty_tokens_a_parameter():
    config = named.paper_consistent()
    tokens = budget(task_of(config), config.steps).tokens
    assert 19 < tokens / 134e6 < 21


def test_a_comparison_gives_every_optimizer_the_same_seeds_and_settings():
    comparison = named.compare()
    runs = comparison.runs()
    assert len({run.name for run in runs}) == len(runs)
    assert len(runs) == comparison.seeds * len(comparison.contestants)
    same = {"optimizer": AdamW(), "seed": 0}
    assert len({config_hash(dataclasses.replace(run.config, **same)) for run in runs}) == 1
    assert [run.config.seed for run in runs] == sorted(run.config.seed for run in runs)


def test_two_settings_of_one_optimizer_are_two_contestants():
    contestants = Contestant(Aardvark()), Contestant(Aardvark(clip=None), "Aardvark, no clip")
    comparison = dataclasses.replace(named.compare(), contestants=contestants, seeds=1)
    assert [run.name for run in comparison.runs()] == ["aardvark-s0", "aardvark-no-clip-s0"]


def test_two_contestants_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"contestants=\['adamw', 'adamw'\]"):
        dataclasses.replace(named.compare(), contestants=(Contestant(AdamW()),) * 2)
