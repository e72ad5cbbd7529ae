"""The benchmark of populations: what it makes of its times, and that it runs."""

import json
import subprocess
import sys

import pytest

from benchmarks.parts.outcome import Ratio
from benchmarks.population import verdict
from tests.support import ROOT


@pytest.mark.parametrize(
    ("gain", "control", "expected"),
    [
        (1.0, 1.0, "met"),
        (0.99, 1.0, "missed"),
        (1.2, 0.969, "not trustworthy"),
        (0.9, 1.031, "not trustworthy"),
    ],
)
def test_a_gain_counts_only_where_a_run_is_as_fast_as_itself(gain, control, expected):
    found = verdict(Ratio(0.0, gain, 9.0), Ratio(0.0, control, 9.0), target=1.0)
    assert found == expected


@pytest.mark.slow
def test_it_runs_and_leaves_a_record(tmp_path):
    output = tmp_path / "new" / "population.jsonl"
    options = {"batch-size": "2", "context": "8", "rounds": "2", "seconds": "0.01"}
    command = [sys.executable, "-m", "benchmarks.population", "--sizes", "1", "2"]
    for name, value in options.items():
        command += [f"--{name}", value]
    command += ["--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1, 2), done.stderr
    (record,) = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["members"] for row in record["rows"]] == [1, 2]
    for row in record["rows"]:
        assert row["gain"]["median"] > 0
        assert row["whole_gain"] > 0
        assert row["verdict"].split()[0] in done.stdout


def test_an_unknown_optimizer_is_refused_in_one_sentence():
    command = [sys.executable, "-m", "benchmarks.population", "--only", "sgd"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "There is no 'sgd': choose among adamw" in done.stderr
    assert "Traceback" not in done.stderr
