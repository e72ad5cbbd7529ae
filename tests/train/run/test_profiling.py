"""How fast a run was, and where its time went."""

import dataclasses

import pytest

import models
from tests.support import tiny
from train.run.profiler import Profiler
from train.run.train import train
from train.run.training_clock import Spent, speed_of


def test_a_run_with_profile_leaves_a_trace_in_its_folder_and_records_its_rate(tmp_path):
    config = tiny.run_config(tmp_path, steps=4, eval_every=4, checkpoint_every=4, log_every=4)
    config = dataclasses.replace(
        config, schedule=dataclasses.replace(config.schedule, warmup_steps=1)
    )
    final = train(config, tmp_path / "run", profile=True)
    traces = list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    assert len(traces) == 1
    assert traces[0].stat().st_size > 1000
    assert final.tokens_per_second == final.tokens / final.seconds


@pytest.mark.parametrize(
    ("first", "last", "traced"), [(1, 100, [6, 7, 8]), (1, 4, [2, 3, 4]), (4, 4, [4])]
)
def test_the_trace_holds_three_steps_after_a_warm_up_where_there_are_so_many(
    tmp_path, monkeypatch, first, last, traced
):
    open_trace, seen = [], []
    monkeypatch.setattr("jax.profiler.start_trace", open_trace.append)
    monkeypatch.setattr("jax.profiler.stop_trace", open_trace.clear)
    profiler = Profiler(tmp_path, first, last)
    for step in range(first, last + 1):
        profiler.before(step)
        seen += [step] * len(open_trace)
        profiler.after(step, ())
    profiler.close()
    assert seen == traced
    assert not open_trace


def test_without_a_folder_nothing_is_traced(monkeypatch):
    monkeypatch.setattr("jax.profiler.start_trace", pytest.fail)
    profiler = Profiler(None, 1, 10)
    for step in range(1, 11):
        profiler.before(step)
        profiler.after(step, ())


def test_utilization_counts_exact_causal_flops_over_the_peak_of_all_devices(tmp_path):
    speed = speed_of(tiny.TASK, 1000, Spent(2.0, 8.0), "NVIDIA H100 80GB HBM3")
    assert speed.tokens_per_second == 500
    assert speed.mfu == 1000 * models.flops_per_token(tiny.MODEL, 16) / (8.0 * 989e12)
    assert "989 TFLOP/s a device" in str(speed)


def test_without_a_known_peak_the_utilization_is_unknown(tmp_path):
    speed = speed_of(tiny.TASK, 1000, Spent(2.0, 8.0))
    assert speed.mfu is None
    assert str(speed) == "500 tokens/s, MFU unknown (no peak is known for this device)"
