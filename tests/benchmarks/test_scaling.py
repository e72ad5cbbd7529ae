"""The scaling benchmark: the same work in every layout, and what its verdicts mean."""

import json
import math

import pytest

from benchmarks import scaling
from benchmarks.parts.outcome import Ratio
from benchmarks.scaling import ROWS, TOLERANCE, Options, Row


def row(*, time=1.0, control=1.0, loss_error=0.0, at_most=1.1):
    time, control = (Ratio(0.99 * median, median, 1.01 * median) for median in (time, control))
    return Row("fsdp-8", time, control, 10.0, loss_error, at_most)


def test_a_row_is_judged_by_its_time_only_where_losses_and_control_hold():
    assert row(time=1.1).verdict == "met"
    assert row(time=1.11).verdict == "missed"
    assert row(time=1.11, at_most=None).verdict == ""
    assert row(control=1.04).verdict == "not trustworthy"
    assert row(control=1.04, loss_error=2 * TOLERANCE).verdict == "other losses"
    assert row(loss_error=math.nan).verdict == "other losses"


def test_every_layout_is_compared_with_fewer_devices_or_fewer_processes():
    for layout, rival, _ in ROWS.values():
        assert (layout.devices, layout.processes) > (rival.devices, rival.processes)
    assert {name for name, (_, _, at_most) in ROWS.items() if at_most} == {
        "fsdp-8", "data-8", "processes-2",
    }  # fmt: skip


def test_a_row_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="--rows fsdp-3: no such row; choose from fsdp-2"):
        Options(rows=("fsdp-3",))


@pytest.mark.slow
def test_however_the_work_is_shared_out_its_losses_are_the_same(tmp_path):
    output = tmp_path / "scaling.jsonl"
    options = Options(size="tiny", rows=("processes-2",), rounds=2, steps=1, output=output)
    assert scaling.main(options) in (0, 1, 2)  # A test knows nothing about time.
    (line,) = output.read_text().splitlines()
    rows = json.loads(line)["rows"]
    assert [found["row"] for found in rows] == ["processes-2"]
    for found in rows:
        assert found["verdict"] != "other losses"
        assert found["loss_error"] <= TOLERANCE
        assert found["time"]["median"] > 0
