"""A whole step's cost by optimizer: what is compared, how it is judged, and that it runs."""

import json

import pytest

from benchmarks import step_overhead
from benchmarks.parts import outcome, step_costs
from benchmarks.step_overhead import Options
from train.records.kinds import CostRecord


def test_a_gpu_takes_the_papers_step_and_a_cpu_one_that_it_can_do():
    on_gpu = step_overhead.run_config(Options(device="gpu"))
    assert (on_gpu.model.dtype, on_gpu.batch_size, on_gpu.context) == ("bfloat16", 16, 4096)
    on_cpu = step_overhead.run_config(Options())
    assert (on_cpu.model.dtype, on_cpu.batch_size, on_cpu.context) == ("float32", 4, 512)


def cost(ratio=1.0, state=8.0):
    return CostRecord(
        optimizer="x", title="X", step_ratio=ratio, ratio_low=ratio, ratio_high=ratio, rounds=3,
        step_seconds=1.0, state_bytes_per_parameter=state, peak_bytes=100, compile_seconds=1.0,
        flops=None, bytes_accessed=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "found", "steady", "expected"),
    [
        ("stratopt", cost(1.004), True, {"time": "met"}),
        ("aardvark", cost(1.006), True, {"time": "missed"}),
        ("aardvark", cost(1.0), False, {"time": "not trustworthy"}),
        ("stratopt, bf16", cost(2.0, state=4.0), True, {"memory": "met"}),
        ("stratopt, bf16", cost(2.0, state=7.0), True, {"memory": "missed"}),
        ("lion", cost(2.0), True, {}),
    ],
)
def test_ours_are_judged_by_time_and_the_small_state_by_memory(
    monkeypatch, name, found, steady, expected
):
    monkeypatch.setattr(step_costs, "_update_seconds", lambda program: 0.01)
    row = step_costs._row(name, None, found, cost(), steady)
    assert row.verdicts == expected
    assert row.share == pytest.approx(0.01)


@pytest.mark.slow
def test_it_runs_and_leaves_a_record(tmp_path):
    output = tmp_path / "overhead.jsonl"
    options = Options(
        model="nano", tokens=1024, only=("stratopt, bf16",), rounds=3, steps=1, output=output
    )
    status = step_overhead.main(options)
    adamw, ours = json.loads(output.read_text())["rows"]
    assert (adamw["optimizer"], adamw["state"]) == ("adamw", 1.0)
    assert ours["state"] == pytest.approx(8 / 12, abs=0.01)
    assert status == outcome.STATUS[ours["verdicts"]["memory"]]


def test_what_there_is_not_cannot_be_compared():
    config = step_overhead.run_config(Options())
    with pytest.raises(ValueError, match="There is no 'sgd' to compare"):
        step_costs.measure(config, ("sgd",), rounds=3, steps=1)
    with pytest.raises(ValueError, match="There is no model 'huge'"):
        step_overhead.run_config(Options(model="huge"))
