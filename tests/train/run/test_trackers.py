"""Trackers see the numbers of the records, and nothing needs them."""

import dataclasses
import math
import sys

import pytest

from tests.support.synthetic_comparison import records, run_record
from train.records.lines import EvalRecord, FinalRecord, StepRecord
from train.run.trackers import numbers, open_tracker

RUN = run_record("adamw", 0)
LINES = [line for line in records(RUN) if not isinstance(line, type(RUN))]


def tracked(name, folder, lines, after_step=0):
    tracker = open_tracker(name, folder, RUN, after_step)
    for line in lines:
        tracker.log(line.step, numbers(line))
    tracker.close()


def test_every_number_of_a_record_has_a_name_by_kind_and_layer_type():
    step = next(line for line in LINES if isinstance(line, StepRecord))
    found = numbers(step)
    assert found["train/loss"] == step.loss
    assert found["grad_norms/attention"] == step.grad_norms["attention"]
    assert "train/step" not in found
    final = next(line for line in LINES if isinstance(line, FinalRecord))
    assert numbers(final)["final/diverged"] == 0.0
    assert "final/mfu" not in numbers(final)  # Nothing stands for what is not known.


def test_a_tracker_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ValueError, match="pip install trackio"):
        open_tracker("trackio", tmp_path, RUN, 0)


def test_an_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no tracker 'comet': choose among tensorboard, trackio"):
        open_tracker("comet", tmp_path, RUN, 0)


def test_tensorboard_gets_every_loss(tmp_path):
    tracked("tensorboard", tmp_path, LINES)
    found = {
        event.step: value.simple_value
        for event in events(tmp_path / "tensorboard")
        for value in event.summary.value
        if value.tag == "val/loss"
    }
    losses = {line.step: line.loss for line in LINES if isinstance(line, EvalRecord)}
    assert found == pytest.approx(losses)


def test_tensorboard_is_told_which_steps_are_done_again(tmp_path):
    tracked("tensorboard", tmp_path, LINES[20:], after_step=LINES[19].step)
    restarts = [event for event in events(tmp_path / "tensorboard") if event.session_log.status]
    assert [event.step for event in restarts] == [LINES[19].step + 1]


def test_trackio_and_wandb_take_a_run(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    pytest.importorskip("wandb")
    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path / "trackio")
    broken = dataclasses.replace(LINES[3], loss=math.nan)
    tracked("wandb", tmp_path, [*LINES[:3], broken])
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 1
    tracked("trackio", tmp_path, [*LINES[:3], broken])


def events(folder):
    """The events of a folder; each lies between a length with its checksum and its own checksum."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.iterdir()
    data, position = path.read_bytes(), 0
    while position < len(data):
        start = position + 12
        stop = start + int.from_bytes(data[position : position + 8], "little")
        yield Event.FromString(data[start:stop])
        position = stop + 4
