"""What Python does before a step: our side and theirs are the same program, and it is measured."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import dispatch
from benchmarks.parts import outcome, train_programs, unrolled
from models import PRESETS
from train.config.run import RunConfig
from train.optimizers import AdamW
from train.tasks.loss import batch_loss


def test_a_dict_for_every_layer_computes_what_the_stack_of_layers_does():
    model = dataclasses.replace(PRESETS["nano"], dtype="float32")
    batch = train_programs.random_batch(RunConfig(model=model, batch_size=2, context=16))
    params = unrolled.init(model, jax.random.key(0))
    layers = [params["layers"][layer] for layer in range(model.layers)]
    stacked = {**params, "layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)}
    tx = optax.sgd(1.0)
    updated, _, loss = jax.jit(unrolled.train_step(model, tx))(params, tx.init(params), batch)
    total, weight = jax.jit(lambda params: batch_loss(model, params, batch, None))(stacked)
    np.testing.assert_allclose(loss, total / weight, rtol=1e-5)
    changed = jax.tree.map(lambda old, new: bool((old != new).any()), params, updated)
    assert all(jax.tree.leaves(changed))


@pytest.mark.slow
def test_it_runs_and_leaves_a_record(tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "OPTIMIZERS", (AdamW(),))
    output = tmp_path / "dispatch.jsonl"
    options = dispatch.Options(layers=2, rounds=3, steps=2, output=output)
    status = dispatch.main(options)
    (row,) = json.loads(output.read_text())["rows"]
    stacked, unstacked = row["leaves"]
    # Parameters and two moments of one layer more; ours also counts the steps.
    assert unstacked - (stacked - 1) == 3 * 9
    assert status == outcome.STATUS[row["verdict"]]
