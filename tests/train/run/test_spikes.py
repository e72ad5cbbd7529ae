"""Steps that stand out are recorded, once, and the same whether a run was interrupted or not."""

import itertools
import math
import os
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import tiny
from tests.train.records.test_lines import RUN, evaluation
from tests.train.records.test_lines import step as logged
from train.data import open_dataset
from train.host.signals import Interrupted
from train.records.lines import RecordWriter, SpikeRecord, decode, encode, read_records
from train.run import spikes
from train.run.spikes import DEVIATIONS, ENOUGH, WINDOW, SpikeWatch
from train.run.train import train
from train.step.program import build_program
from train.tasks import task_of
from train.tasks.language_model import language_model

pytestmark = pytest.mark.faults

SPIKE = SpikeRecord(
    step=7,
    tokens=1792,
    loss=math.nan,
    median=2.0,
    deviation=0.1,
    grad_norm=math.inf,
    skipped=True,
    first_row=24,
    last_row=27,
    seconds=7.0,
)


def noise(seed, size, center=2.0, deviation=0.05):
    return np.random.default_rng(seed).normal(center, deviation, size).tolist()


def watch_of(losses):
    return SpikeWatch(logged(number, loss) for number, loss in enumerate(losses, 1))


def test_a_loss_far_above_those_before_stands_out_and_one_far_below_does_not():
    watch = watch_of(noise(0, 30))
    assert watch.usual.median == pytest.approx(2.0, abs=0.03)
    assert watch.usual.deviation == pytest.approx(0.05, rel=0.5)
    for loss, stands_out in (
        (2.1, False),
        (2.6, True),
        (math.inf, True),
        (math.nan, True),
        (1, False),
    ):
        assert watch.stands_out(loss, skipped=False) == stands_out, loss


def test_a_skipped_step_stands_out_whatever_its_loss():
    assert SpikeWatch().stands_out(2.0, skipped=True)


def test_nothing_is_said_of_losses_until_enough_are_known():
    known = noise(1, ENOUGH)
    assert not watch_of(known[:-1]).stands_out(100.0, skipped=False)
    assert watch_of(known).stands_out(100.0, skipped=False)


def test_losses_that_hardly_differ_leave_room_for_a_percent_each():
    watch = watch_of([2.0] * ENOUGH)
    assert not watch.stands_out(2.0 + DEVIATIONS * 0.0199, skipped=False)
    assert watch.stands_out(2.0 + DEVIATIONS * 0.0201, skipped=False)


@given(st.lists(st.floats(allow_nan=True), max_size=WINDOW // 2 - 5))
def test_fewer_than_half_of_the_losses_hide_no_spike(wild):
    """As means and standard deviations would let them."""
    watch = watch_of([*noise(2, WINDOW), *wild])
    assert watch.stands_out(4.0, skipped=False)


def test_one_step_between_two_logged_ones_is_enough():
    watch = watch_of(noise(3, 30))
    assert watch.stands_out(9.0, skipped=False)
    watch.see(SPIKE)
    assert not watch.stands_out(9.0, skipped=False)
    watch.see(logged(40))
    assert watch.stands_out(9.0, skipped=False)


def test_healthy_losses_raise_no_alarm():
    """A falling and a level stretch, each with every tenth of 3,000 steps logged."""
    for falling in (0.0, 3.0):
        curve = 2.0 + falling * np.exp(-np.arange(3000) / 500) + np.array(noise(4, 3000, 0.0))
        watch, alarms = SpikeWatch(), 0
        for number, loss in enumerate(curve.tolist(), 1):
            alarms += watch.stands_out(loss, skipped=False)
            if number % 10 == 0:
                watch.see(logged(number, loss))
        assert alarms == 0


def test_a_spike_is_strict_json_and_comes_back():
    assert repr(decode(encode(SPIKE))) == repr(SPIKE)


def test_a_spike_that_will_be_written_again_is_dropped(tmp_path):
    path = tmp_path / "records.jsonl"
    lines = [RUN, logged(5), SPIKE, evaluation(8)]
    with RecordWriter(path) as writer:
        for line in lines:
            writer.write(line)
    with RecordWriter(path, resume_after_step=6) as writer:
        assert writer.kept == (RUN, logged(5))
    with RecordWriter(path, resume_after_step=6) as writer:
        writer.write(SPIKE)
    assert [line.kind for line in read_records(path)] == ["run", "step", "spike"]


class OddBatch:
    """A data set of which one training batch asks for a byte that the text never has."""

    def __init__(self, dataset, step):
        self._dataset, self._step = dataset, step

    def __getattr__(self, name):
        return getattr(self._dataset, name)

    def train_batches(self, *args, start_step=0, **kwargs):
        batches = self._dataset.train_batches(*args, start_step=start_step, **kwargs)
        for step, batch in zip(itertools.count(start_step + 1), batches, strict=False):
            odd = batch._replace(targets_BT=np.full_like(batch.targets_BT, 250))
            yield odd if step == self._step else batch


@pytest.mark.slow
def test_an_interrupted_run_records_the_spikes_of_an_undisturbed_one(tmp_path, monkeypatch):
    monkeypatch.setattr(spikes, "ENOUGH", 4)
    monkeypatch.setattr(spikes, "DEVIATIONS", 1.0)  # So few losses fall fast, and differ much.
    config = tiny.run_config(tmp_path / "cache", steps=20)
    program = build_program(config, task_of(config))
    task = language_model(config, OddBatch(open_dataset(config.data), step=17))

    def found_in(folder):
        records = read_records(folder / "records.jsonl")
        return [
            {key: value for key, value in vars(line).items() if key != "seconds"}
            for line in records
            if line.kind in ("step", "eval", "spike")
        ]

    train(config, tmp_path / "undisturbed", program=program, task=task)
    spike, *_ = [line for line in found_in(tmp_path / "undisturbed") if "median" in line]
    assert (spike["step"], spike["skipped"]) == (17, False)
    assert (spike["first_row"], spike["last_row"]) == (16 * 8, 17 * 8 - 1)
    assert spike["loss"] > spike["median"] + spike["deviation"]

    for stop_after in (13, 16, 17, 18):
        folder = tmp_path / str(stop_after)

        def interrupt(progress, stop_after=stop_after):
            if progress.step == stop_after:
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(Interrupted):
            train(
                config,
                folder,
                program=program,
                task=task,
                on_progress=interrupt,
            )
        train(config, folder, program=program, task=task)
        assert found_in(folder) == found_in(tmp_path / "undisturbed")
