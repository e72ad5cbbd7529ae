"""What holds for any configuration and schedule, not for the usual alone."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import TransformerConfig
from tests.optax_strat.test_tree_properties import check_schedule
from train.cli.terminal import parse
from train.cli.train import run_command
from train.config import named
from train.config.plain import config_hash, first_difference, run_config, to_dict
from train.config.run import RunConfig, ScheduleConfig
from train.data import DataConfig
from train.optimizers import AdamW, Lion, Muon, StratOpt

pytestmark = pytest.mark.faults

# --- configurations

few = st.integers(1, 10**6)
fractions = st.floats(0, 1)
rates = st.floats(1e-12, 1e3)
texts = st.text(st.characters(exclude_categories=["Cs"]))
optimizers = st.one_of(
    st.builds(kind, learning_rate=rates, weight_decay=fractions)
    for kind in (AdamW, Lion, Muon, StratOpt)
)
run_configs = st.builds(
    RunConfig,
    model=st.builds(
        TransformerConfig,
        vocab_size=few,
        context=st.just(10**6),
        layers=few,
        d_model=st.just(64),
        heads=st.sampled_from([1, 2, 4]),
        d_ff=few,
        tied_head=st.booleans(),
    ),
    data=st.builds(DataConfig, source=texts, text_column=texts, max_documents=st.none() | few),
    schedule=st.builds(ScheduleConfig, warmup_steps=st.just(0), final_fraction=fractions),
    steps=few,
    context=few,
    eval_batches=st.none() | few,
    optimizer=optimizers,
    seed=st.integers(0, 2**63),
)


@given(run_configs)
def test_a_configuration_comes_back_from_json(config: RunConfig) -> None:
    again = run_config(json.loads(json.dumps(to_dict(config))))
    assert again == config
    assert config_hash(again) == config_hash(config)


@given(run_configs, run_configs)
def test_configurations_have_one_hash_only_if_they_are_equal(a: RunConfig, b: RunConfig) -> None:
    differ = first_difference(to_dict(a), to_dict(b)) is not None
    assert differ == (a != b) == (config_hash(a) != config_hash(b))


FLAGS = {
    "seed": st.integers(0, 2**31),
    "steps": st.integers(20, 10**6),
    "batch_size": few,
    "max_consecutive_skips": few,
    "schedule.final_fraction": fractions,
    "mesh.fsdp": few,
    "data.shard_tokens": few,
    "data.text_column": st.sampled_from(["body", "a b", "-", "None", "0"]),
    "model.rope_theta": st.floats(1.0, 1e6),
}
NANO = named.nano()


@settings(max_examples=6)
@given(name=st.sampled_from(sorted(FLAGS)), data=st.data())
def test_a_flag_reaches_its_setting_and_no_other(name: str, data: st.DataObject) -> None:
    value = data.draw(FLAGS[name])
    flag = f"--{name}={value}".replace("_", "-", name.count("_"))
    command = parse(run_command, "run", ["nano", flag])
    assert command.keywords["config"] == changed(NANO, name, value)


def changed(config: Any, path: str, value: object) -> Any:
    name, _, rest = path.partition(".")
    new = changed(getattr(config, name), rest, value) if rest else value
    return dataclasses.replace(config, **{name: new})


# --- schedules

decay_shapes = st.sampled_from(["cosine", "linear", "constant"])


@settings(max_examples=12)
@given(
    peak=rates,
    steps=st.integers(1, 10**5),
    share=fractions,
    decay=decay_shapes,
    final=fractions,
)
def test_a_rate_rises_to_its_peak_and_falls_to_its_fraction_of_it(
    peak: float, steps: int, share: float, decay: Any, final: float
) -> None:
    warmup = int(share * steps)
    schedule = ScheduleConfig(warmup, decay, final).build(peak, steps)
    check_schedule(schedule, peak, warmup, steps, 1.0 if decay == "constant" else final)
