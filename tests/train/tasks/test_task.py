"""A task that is no language model: other batches, no FLOPs, no bytes, no names of dimensions."""

import dataclasses
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_strat import Layers
from tests.support import tiny
from train.config.run import MeshConfig
from train.optimizers import AdamW, Lion
from train.records.lines import DataSummary, read_records
from train.run.population import train_population
from train.run.train import train
from train.step.program import build_program
from train.tasks import Task

ROWS = 16
SLOPES = np.array([1.0, -2.0, 3.0], np.float32)


def batch_of(seed, step):
    """Points of a plane, as a dict."""
    x = np.random.default_rng([seed, step]).normal(size=(ROWS, 3)).astype(np.float32)
    return {"x": x, "y": x @ SLOPES}


def part_of(batch, process_index=0, process_count=1):
    return jax.tree.map(lambda rows: np.split(rows, process_count)[process_index], batch)


def train_batches(*, seed, start_step=0, **share):
    return (part_of(batch_of(seed, step), **share) for step in itertools.count(start_step))


def validation_batches(**share):
    return (part_of(batch_of(99, step), **share) for step in range(2))


def squared_error(params, batch):
    error = batch["x"] @ params["slopes"] + params["offset"] - batch["y"]
    return (error**2).sum(), jnp.float32(error.size)


def plane():
    """Linear regression."""
    return Task(
        name="plane",
        init=lambda key: {"slopes": jax.random.normal(key, (3,)), "offset": jnp.zeros(())},
        loss=squared_error,
        batch=jax.eval_shape(lambda: jax.tree.map(jnp.asarray, batch_of(0, 0))),
        train_batches=train_batches,
        validation_batches=validation_batches,
        data=lambda: DataSummary(
            source="plane", tokenizer="", fingerprint="1", bytes_per_token=1.0, train_tokens=0
        ),
        tokens_per_step=ROWS,
        unit="squared error",
        layers=Layers(unmatched="other"),
    )


@pytest.fixture
def config(tmp_path):
    return tiny.run_config(
        tmp_path / "no data",
        optimizer=AdamW(learning_rate=0.3),
        steps=40,
        batch_size=ROWS,
        eval_every=20,
    )


@pytest.mark.parametrize("mesh", [MeshConfig(data=8), MeshConfig(data=2, fsdp=4)], ids=str)
def test_it_is_trained_evaluated_recorded_and_gone_on_with(config, mesh, tmp_path):
    config = dataclasses.replace(config, mesh=mesh)
    final = train(config, tmp_path / "run", task=plane())
    start, *_, line = read_records(tmp_path / "run" / "records.jsonl")
    assert (start.model.name, start.model.parameters, start.data.source) == ("plane", 4, "plane")
    assert repr(line) == repr(final)  # NaN is not equal to itself.
    assert final.tokens == 40 * ROWS
    assert final.val_loss < 0.5
    assert final.mfu is None
    assert math.isnan(final.bits_per_byte)
    assert repr(train(config, tmp_path / "run", task=plane())) == repr(final)


def test_micro_batches_give_the_step_of_the_whole_batch(config):
    losses = {}
    for accumulate in (1, 2):
        program = build_program(dataclasses.replace(config, accumulate=accumulate), plane())
        state = program.init(seed=0)
        for batch in itertools.islice(train_batches(seed=0), 3):
            state, metrics = program.train_step(state, batch)
        losses[accumulate] = float(metrics["loss"])
    assert losses[1] == pytest.approx(losses[2], rel=1e-6)


def test_runs_of_it_train_together(config, tmp_path):
    configs = [
        dataclasses.replace(config, optimizer=Lion(learning_rate=rate)) for rate in (0.03, 0.1)
    ]
    folders = [tmp_path / str(number) for number in range(2)]
    finals = train_population(configs, folders, checkpoints=tmp_path / "checkpoints", task=plane())
    alone = train(configs[1], tmp_path / "alone", task=plane())
    assert finals[1].val_loss == pytest.approx(alone.val_loss, rel=1e-4)
    assert json.loads((folders[0] / "records.jsonl").read_text().splitlines()[0])["seed"] == 0
