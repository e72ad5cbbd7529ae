"""The benchmarks' own arithmetic: traffic read from a program's text, ratios of noisy times."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from benchmarks.optimizer_step import Options, verdict
from benchmarks.parts import hlo, outcome, timing, trees
from benchmarks.parts.contenders import CONTENDERS, chosen
from benchmarks.parts.outcome import Ratio
from tests.support import ROOT

LOOP = """
HloModule loop, is_scheduled=true, entry_computation_layout={(f32[8,4]{1,0})->f32[8,4]{1,0}}

%write_a_row (old: f32[8,4], row: f32[4], at: s32[]) -> f32[8,4] {
  %old = f32[8,4]{1,0} parameter(0)
  %row = f32[4]{0} parameter(1)
  %wide = f32[1,4]{1,0} bitcast(%row)
  %at = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %new = f32[8,4]{1,0} dynamic-update-slice(%old, %wide, %at, /*index=3*/%zero)
}

%body (state: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %state = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[8,4]{1,0} get-tuple-element(%state), index=1
  %sums = f32[4]{0} reduce(%x, %i), dimensions={0}, to_apply=%add
  %y = f32[8,4]{1,0} fusion(%x, %sums, %i), kind=kLoop, calls=%write_a_row
  ROOT %next = (s32[], f32[8,4]{1,0}) tuple(%i, %y)
}

%condition (state: (s32[], f32[8,4])) -> pred[] {
  %state = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  ROOT %less = pred[] compare(%i, %i), direction=LT
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[8,4]{1,0}) tuple(%zero, %x)
  %loop = (s32[], f32[8,4]{1,0}) while(%start), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  %y = f32[8,4]{1,0} get-tuple-element(%loop), index=1
  %all = f32[8,4]{1,0} all-reduce(%y), replica_groups={{0,1}}, to_apply=%add
  ROOT %copy = f32[8,4]{1,0} copy(%all), metadata={op_name="copy(%y)"}
}
"""


def test_a_loop_counts_as_often_as_it_runs_and_an_update_in_place_by_its_slice():
    found = hlo.text_traffic(LOOP)
    reduce, write = 128 + 4 + 16, 16 + 4 + 16
    condition, twice = 1 + 4 + 4, 2 * (128 + 128)
    assert found.bytes == 3 * (reduce + write) + 4 * condition + twice
    assert found.kernels == 3 * 2 + 4 + 2
    assert found.collectives == {"all-reduce": 1}


@pytest.mark.parametrize(
    ("function", "moved"),
    [
        (lambda x: 2.0 * x + 1.0, 8192 + 8192),
        (lambda x: jnp.sort(x)[:4] * 2.0, None),
        (lambda x: jax.lax.dynamic_slice(x, (jnp.int32(3),), (16,)), 64 + 64),
    ],
    ids=["a pass", "a sort", "a slice"],
)
def test_traffic_agrees_with_what_a_program_must_move(function, moved):
    compiled = jax.jit(function).lower(jax.ShapeDtypeStruct((2048,), jnp.float32)).compile()
    found = hlo.traffic(compiled)
    assert found.kernels >= 1
    if moved is not None:
        assert found.bytes == pytest.approx(moved, abs=16)


def test_trees_have_the_leaves_that_they_are_known_by():
    leaves = {name: len(jax.tree.leaves(trees.tree(name))) for name in trees.TREES}
    assert leaves == {"stacked": 11, "unstacked": 115, "many": 500}
    assert trees.count(trees.tree("stacked")) == trees.count(trees.tree("unstacked")) == 133_220_480


def test_a_ratio_compares_within_rounds_so_that_drift_cancels():
    slower_and_slower = [1.0, 2.0, 4.0, 8.0, 16.0]
    found = outcome.ratio([1.1 * x for x in slower_and_slower], slower_and_slower)
    assert (found.low, found.median, found.high) == pytest.approx((1.1, 1.1, 1.1))


def timed(ratio: float, control: float, roofline: float = 0.9) -> timing.Timing:
    return timing.Timing(
        tree="stacked",
        size="full",
        optimizer="aardvark",
        rival="adamw, clipped",
        device="a machine",
        wall=Ratio(ratio, ratio, ratio),
        cpu=Ratio(9.0, 9.0, 9.0),
        control=Ratio(control - 0.1, control, control + 0.1),
        milliseconds=1.0,
        roofline=roofline,
    )


@pytest.mark.parametrize(
    ("ratio", "control", "expected"),
    [
        (0.59, 1.0, "met"),
        (0.61, 1.0, "missed"),
        (0.59, 0.969, "not trustworthy"),
        (0.59, 1.031, "not trustworthy"),
        (0.59, 0.97, "met"),
    ],
)
def test_a_ratio_counts_only_where_a_program_is_as_fast_as_itself(ratio, control, expected):
    assert verdict(timed(ratio, control), Options()) == expected


def test_the_chosen_clock_decides():
    assert verdict(timed(0.5, 1.0), Options(clock="cpu")) == "missed"


def test_a_gpu_is_judged_by_its_memorys_speed():
    assert verdict(timed(9.0, 1.0), Options(device="gpu")) == "met"
    assert verdict(timed(9.0, 1.0, roofline=0.7), Options(device="gpu")) == "missed"


def test_every_rival_and_peer_is_a_contender():
    for contender in CONTENDERS.values():
        assert {contender.rival, contender.peer} <= CONTENDERS.keys()


def test_an_unknown_contender_is_refused():
    with pytest.raises(ValueError, match="There is no 'sgd' to compare"):
        chosen(("sgd",))


@pytest.mark.slow
def test_the_benchmark_runs_and_leaves_a_record(tmp_path):
    output = tmp_path / "new" / "steps.jsonl"
    options = {"size": "tiny", "rounds": "2", "seconds": "0.01", "trees": "stacked", "tries": "1"}
    command = [sys.executable, "-m", "benchmarks.optimizer_step", "--only", "stratopt"]
    for name, value in options.items():
        command += [f"--{name}", value]
    command += ["--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1, 2), done.stderr
    (record,) = [json.loads(line) for line in output.read_text().splitlines()]
    (row,) = record["rows"]
    assert row["optimizer"] == "stratopt"
    assert row["verdict"] in done.stdout
    assert row["wall"]["median"] > 0
    assert record["versions"]["jax"] == jax.__version__
