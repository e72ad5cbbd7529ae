"""A run's lines: none is lost, none is there twice, and a full disk is said in one sentence."""

import errno
import math
import os

import pytest

from tests.support import tiny
from train.host.disk import DiskError
from train.records.lines import EvalRecord, RecordWriter, SpikeRecord, StepRecord, read_records
from train.run.recorder import Recorder
from train.run.run_summary import RunSummary
from train.tasks import task_of

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny.run_config(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def task(config):
    return task_of(config)


def metrics(loss):
    norms = {"head": 1.0}
    return {
        "loss": loss,
        "learning_rate": 0.1,
        "grad_norm": 1.0,
        "grad_norms": norms,
        "update_norms": norms,
        "param_norms": norms,
        "skipped": 0,
        "consecutive_skips": 0,
    }


def write(recorder, steps):
    """What a loop writes that logs every second step and evaluates every fourth."""
    if recorder.empty:
        recorder.start()
        recorder.evaluation(0, 5.6, 0.0)
    for step in steps:
        if step == 5:
            recorder.spike(step, metrics(9.0), 1.0)
        if step % 2 == 0:
            recorder.step(step, metrics(5.0), 1.0)
        if step % 4 == 0:
            recorder.evaluation(step, 5.0, 1.0)


def steps_of(path, kind):
    return [line.step for line in read_records(path) if isinstance(line, kind)]


def check_eight_steps(path):
    assert steps_of(path, StepRecord) == [2, 4, 6, 8]
    assert steps_of(path, EvalRecord) == [0, 4, 8]
    assert steps_of(path, SpikeRecord) == [5]


@pytest.mark.parametrize("lost_bytes", [0, 1, 30])
@pytest.mark.parametrize("killed_after", [4, 5, 6, 7, 8])
def test_a_killed_run_that_goes_on_has_every_line_once(
    config, task, tmp_path, killed_after, lost_bytes
):
    path = tmp_path / "records.jsonl"
    recorder = Recorder(path, config, task, 0)
    write(recorder, range(1, killed_after + 1))
    recorder.close()
    # What stands before the checkpoint was waited for.
    if killed_after > 4:
        os.truncate(path, path.stat().st_size - lost_bytes)
    recorder = Recorder(path, config, task, 4)
    write(recorder, range(5, 9))
    recorder.close()
    check_eight_steps(path)


def test_a_full_disk_is_said_in_one_sentence_and_the_run_goes_on_when_there_is_room(
    config, task, tmp_path, monkeypatch
):
    path = tmp_path / "records.jsonl"
    recorder = Recorder(path, config, task, 0)
    write(recorder, range(1, 6))

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskError, match=r"takes no more \(No space left on device\)"):
            recorder.sync()
        patch.setattr(RecordWriter, "write", lambda self, record: full(0))
        with pytest.raises(DiskError, match="make room, and the same command goes on"):
            recorder.step(6, metrics(5.0), 1.0)
    recorder.close()
    recorder = Recorder(path, config, task, 4)
    write(recorder, range(5, 9))
    recorder.close()
    check_eight_steps(path)


@pytest.mark.parametrize("kept_lines", [0, 1, 3])
def test_a_checkpoint_without_the_records_of_its_steps_is_refused(
    config, task, tmp_path, kept_lines
):
    path = tmp_path / "records.jsonl"
    recorder = Recorder(path, config, task, 0)
    write(recorder, range(1, 5))
    recorder.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:kept_lines]))
    with pytest.raises(ValueError, match=r"lacks the records of the 4 steps that the checkpoint"):
        Recorder(path, config, task, 4)
    assert path.read_bytes() == b"".join(lines[:kept_lines])


@pytest.mark.parametrize(("was_skipped", "expected"), [(True, 2.0), (False, math.nan)])
def test_the_training_loss_leaves_out_skipped_steps_but_not_diverged_ones(was_skipped, expected):
    losses = {96: 1.0, 98: math.nan, 100: 3.0}
    so_far = RunSummary(100)
    for step, loss in losses.items():
        skipped = int(was_skipped and step >= 98)
        so_far.see(
            StepRecord(
                step=step,
                tokens=0,
                loss=loss,
                learning_rate=0.1,
                grad_norm=1.0,
                skipped=skipped,
                seconds=0.0,
            )
        )
    assert so_far.train_loss == pytest.approx(expected, nan_ok=True)
