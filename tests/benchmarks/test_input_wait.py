"""The time that a loop waits for batches is measured in a real run, and judged."""

import json

import pytest

from benchmarks import input_wait
from benchmarks.input_wait import Options, Share
from benchmarks.parts import outcome
from tests.support import tiny


@pytest.mark.parametrize(("median", "expected"), [(199.0, "met"), (201.0, "missed")])
def test_the_median_wait_is_judged_by_a_step(median, expected):
    assert Share("the loop", median, mean=1e6, step=100_000.0).verdict == expected


@pytest.mark.slow
def test_it_prints_both_rows_and_leaves_a_record(tmp_path, monkeypatch, capsys):
    config = tiny.run_config(tmp_path / "cache", steps=4)
    monkeypatch.setattr(input_wait, "run_config", lambda options: config)
    output = tmp_path / "wait.jsonl"
    status = input_wait.main(Options(steps=4, tokens=200_000, output=output))
    rows = json.loads(output.read_text())["rows"]
    assert [row["where"] for row in rows] == ["the loop", "an H100's rate"]
    assert status == outcome.exit_status(row["verdict"] for row in rows)
    assert all(0 < row["median"] < row["step"] for row in rows)
    assert "an H100's rate" in capsys.readouterr().out
