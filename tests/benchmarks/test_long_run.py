"""Whether a long run stays what it is: what is compared, and a short run that is measured."""

import json

import numpy as np
import pytest

from benchmarks import long_run
from benchmarks.long_run import Options, Trend, trend
from benchmarks.parts import outcome

NUMBERS = np.array([9.0, 9, 1, 3, 5, 5, 5, 5, 6, 8])


@pytest.mark.parametrize("what", ["ms a step", "MB in use"])
def test_the_last_fifth_is_compared_with_the_second_by_medians(what):
    assert trend(what, NUMBERS) == Trend(what, early=2, late=7, least=1, most=8)


@pytest.mark.parametrize("what", ["MB of the process", "open files"])
def test_what_goes_up_and_down_is_compared_by_the_most_of_it(what):
    assert trend(what, NUMBERS) == Trend(what, early=3, late=8, least=1, most=8)


@pytest.mark.parametrize(("late", "expected"), [(105.0, "met"), (106.0, "missed")])
def test_memory_in_use_may_grow_by_a_twentieth(late, expected):
    assert Trend("MB in use", 100.0, late, 100.0, late).verdict == expected


def test_a_file_that_is_left_open_is_a_miss():
    assert Trend("open files", 10.0, 11.0, 10.0, 11.0).verdict == "missed"


@pytest.mark.slow
def test_a_run_is_looked_at_and_leaves_a_record(tmp_path, capsys):
    output = tmp_path / "long.jsonl"
    status = long_run.main(Options(steps=40, every=4, output=output))
    rows = json.loads(output.read_text())["rows"]
    assert [row["what"] for row in rows] == list(long_run.TARGETS)
    assert all(0 < row["least"] <= row["late"] <= row["most"] for row in rows)
    assert status == outcome.exit_status(row["verdict"] for row in rows)
    assert "40 steps with a checkpoint every 4" in capsys.readouterr().out
