"""What a checkpoint costs is measured and judged, and the state that it holds is the right one."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from benchmarks import checkpoint_stall
from benchmarks.checkpoint_stall import Options, Result
from benchmarks.parts import saves
from benchmarks.parts.outcome import Ratio
from models import PRESETS
from train.config.run import RunConfig
from train.run.checkpoints import Checkpointer

NANO = RunConfig(model=PRESETS["nano"])


def restored_from(folder, like):
    checkpointer = Checkpointer(folder, config_hash="", fingerprint="", seed=0)
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
    )
    found = checkpointer.restore(target)
    checkpointer.close()
    return found.state


def test_a_checkpoint_holds_the_state_of_the_call_though_later_steps_overwrite_it(tmp_path):
    numbers, state = saves.random_state(NANO)
    saver = saves.Saver(tmp_path, state)  # It has flipped all signs, in the state's own memory.
    saver.save()
    saver.close()
    found = restored_from(tmp_path / "checkpoints", state)
    for given, kept in zip(numbers[1:], jax.tree.leaves(found)[1:], strict=True):
        np.testing.assert_array_equal(kept, -given)
    assert found.step == 1  # Not read from the state: the position in the data is the step's name.


def result(stall=0.01, total=1.5, control=1.0):
    of_raw, of_itself = Ratio(total, total, total), Ratio(control, control, control)
    return Result("nano", 1.6, 0.2, "given", 0.002, stall, 1.0, total, of_raw, of_itself)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (result(), ("met", "met")),
        (result(stall=0.26), ("missed", "met")),
        (result(total=2.1), ("met", "missed")),
        (result(total=2.1, control=1.3), ("met", "not trustworthy")),
    ],
)
def test_the_stall_is_judged_by_a_step_and_the_total_by_a_disk_that_is_steady(found, expected):
    assert found.verdicts == expected


def test_it_runs_and_leaves_a_record_and_no_files(tmp_path):
    output, folder = tmp_path / "stall.jsonl", tmp_path / "disk"
    folder.mkdir()
    options = Options(model="nano", rounds=2, folder=folder, step_seconds=1e6, output=output)
    assert checkpoint_stall.main(options) in (0, 1, 2)
    (row,) = json.loads(output.read_text())["rows"]
    assert row["verdicts"][0] == "met"
    assert 0 < row["stall"] < row["total"]
    assert not any(folder.iterdir())


def test_a_step_is_estimated_where_there_is_no_gpu():
    seconds, origin = checkpoint_stall._step_seconds(NANO, Options(mfu=0.3))
    twice, _ = checkpoint_stall._step_seconds(NANO, dataclasses.replace(Options(), mfu=0.15))
    assert twice == pytest.approx(2 * seconds)
    assert origin == "estimated for an H100 at 30% MFU"


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="There is no model 'huge'"):
        checkpoint_stall.measure(Options(model="huge"))
