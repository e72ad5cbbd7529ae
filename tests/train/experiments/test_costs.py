"""The cost sheet: what is timed and counted, and the sentences that the numbers become."""

import dataclasses
import functools
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import models
from tests.support import tiny
from tests.support.synthetic_comparison import cost_record, final_record, run_record, write_run
from train.config.comparison import Contestant
from train.data import Batch
from train.experiments.costs import hlo
from train.experiments.costs.interleaved_timing import take_turns
from train.experiments.costs.measure import UPDATE_ROUNDS, measure_costs
from train.experiments.costs.mesh import EIGHT, measure_mesh_costs, mesh_cost
from train.host.compiling import CompileTime
from train.optimizers import Lion
from train.records.kinds import MeshCost, Ratio, UpdateCost
from train.records.lines import RecordWriter, decode, encode
from train.report.comparison import load
from train.report.costs import costs_table, counts_table, mesh_table
from train.step.program import build_program
from train.tasks import task_of

TABLES = (costs_table, counts_table, mesh_table)


def test_in_every_other_round_the_last_comes_first_and_one_round_warms_up():
    turns, done = [], []

    def runner(name):
        return lambda steps: turns.append((name, steps))

    seconds = take_turns([runner("a"), runner("b")], [4, 7], 3, done.append)
    assert [name for name, _ in turns] == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert set(turns) == {("a", 4), ("b", 7)}
    assert seconds.shape == (3, 2)
    assert done == [0, 1, 2, 3]


def test_a_compilation_that_the_cache_spares_counts_as_long_as_it_once_took():
    with CompileTime() as spent:
        jax.monitoring.record_event_duration_secs(
            "/jax/compilation_cache/compile_time_saved_sec", 1000.0
        )
        jax.monitoring.record_event_duration_secs("/jax/another/duration", 1000.0)
    assert 1000 < spent.seconds < 2000


SMALL = dataclasses.replace(tiny.MODEL, layers=1)
PARAMETERS = models.parameter_count(SMALL).total


def config(**changes):
    return tiny.run_config("no data", model=SMALL, optimizer=Lion(), **changes)


@functools.cache
def measured():
    """The same program under two names."""
    program = build_program(config(), task_of(config()))
    tokens = np.zeros((program.config.batch_size, program.config.context), np.int32)
    contestants = [Contestant(program.config.optimizer, title) for title in ("Lion", "Lion, twin")]
    return measure_costs(
        [program, program],
        Batch(tokens, tokens, np.ones(tokens.shape, np.float32), None),
        rounds=3,
        contestants=contestants,
        steps_per_round=1,
    )


@pytest.mark.slow
def test_every_contestant_is_measured_beside_the_first_under_its_own_name():
    first, twin = measured()
    assert (twin.optimizer, twin.title) == ("lion-twin", "Lion, twin")
    assert (first.ratio_low, first.step_ratio, first.ratio_high) == (1, 1, 1)
    assert first.update.ratio == exactly(1) != twin.update.ratio
    assert first.step_control == twin.step_control != exactly(1)
    assert first.update.control == twin.update.control != exactly(1)
    assert (twin.rounds, twin.update.rounds) == (3, 3 * UPDATE_ROUNDS)
    assert twin.state_bytes_per_parameter == pytest.approx(4, rel=0.01)
    assert twin.mesh is twin.mesh_reason is None  # None was asked for.


def test_the_update_alone_is_a_part_of_the_step_and_touches_every_parameter_and_moment():
    cost, _ = measured()
    assert 0 < cost.update.flops < cost.flops
    # It reads the gradient, the parameter and the moment, and writes the latter two.
    assert 5 * 4 * PARAMETERS <= cost.update.bytes_accessed < cost.bytes_accessed
    assert cost.update.compile_seconds > 0


GATHERED = """
HloModule gathered, is_scheduled=true

%body (state: (s32[], f32[4])) -> (s32[], f32[4]) {
  %state = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[4]{0} get-tuple-element(%state), index=1
  %sum = f32[4]{0} all-reduce(%x), to_apply=%add
  ROOT %next = (s32[], f32[4]{0}) tuple(%i, %sum)
}

%condition (state: (s32[], f32[4])) -> pred[] {
  %state = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  ROOT %less = pred[] compare(%i, %i), direction=LT
}

%skip (x: f32[4]) -> f32[4] {
  ROOT %x = f32[4]{0} parameter(0)
}

%exchange (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  ROOT %y = f32[4]{0} all-to-all(%x), dimensions={0}
}

ENTRY %main (p: pred[], i: s32[], x: f32[4]) -> f32[4] {
  %p = pred[] parameter(0)
  %i = s32[] parameter(1)
  %x = f32[4]{0} parameter(2)
  %start = (s32[], f32[4]{0}) tuple(%i, %x)
  %loop = (s32[], f32[4]{0}) while(%start), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %y = f32[4]{0} get-tuple-element(%loop), index=1
  %z = f32[4]{0} conditional(%p, %y, %y), true_computation=%skip, false_computation=%exchange
  %started = (f32[4]{0}, f32[32]{0}) all-gather-start(%z), dimensions={0}
  %all = f32[32]{0} all-gather-done(%started)
  ROOT %part = f32[4]{0} reduce-scatter(%all), dimensions={0}, to_apply=%add
}
"""


def test_collectives_count_as_often_as_they_run_by_the_larger_of_what_goes_in_and_comes_out():
    assert hlo.collective_bytes(GATHERED) == {
        "all-reduce": 5 * 16,
        "all-gather": 128,
        "reduce-scatter": 128,
        "all-to-all": 16,
    }


def test_eight_devices_share_parameters_and_state_and_gather_every_matrix_in_a_step():
    cost = mesh_cost(config(mesh=EIGHT))
    assert (cost.mesh, cost.devices) == ("fsdp=8", 8)
    for held in (cost.parameter_bytes, cost.state_bytes):  # Lion's one moment; norms are whole.
        assert 4 * PARAMETERS <= 8 * held < 1.1 * 4 * PARAMETERS
    assert cost.collective_bytes["all-gather"] >= 4 * PARAMETERS


@pytest.mark.slow
def test_the_mesh_is_compiled_for_in_a_process_of_its_own_which_says_what_does_not_fit():
    fits, uneven = measure_mesh_costs([config(), config(batch_size=12)])
    assert fits == mesh_cost(config(mesh=EIGHT))
    assert "batch_size=12 does not divide over data x fsdp = 8 devices" in uneven


def test_a_process_that_fails_or_takes_too_long_is_a_reason_and_no_error(monkeypatch):
    (reason,) = measure_mesh_costs([config()], timeout=0.01)
    assert reason == "compiling for fsdp=8 took more than 0.01 seconds"

    def killed(command, **_):
        raise subprocess.CalledProcessError(-9, command, stderr=b"loading\nout of memory\n")

    monkeypatch.setattr(subprocess, "run", killed)
    assert measure_mesh_costs([config()]) == ["compiling for fsdp=8 failed: out of memory"]
    monkeypatch.undo()
    monkeypatch.setattr(sys, "executable", "no such file")
    assert "No such file" in measure_mesh_costs([config()])[0]


def exactly(value):
    return Ratio(low=value, median=value, high=value)


def whole_record(optimizer, step, update, state, *, peak=0, exchanged=1000, **changes):
    """What an optimizer costs whose quartiles are 0.02 below and 0.03 above the median."""
    record = dataclasses.replace(
        cost_record(optimizer, step, state),
        peak_bytes=50_000_000 + peak,
        step_seconds=0.1 * step,
        step_control=Ratio(low=0.98, median=1.0, high=1.01),
        update=UpdateCost(
            rounds=150, seconds=0.01 * update, ratio=exactly(update), control=exactly(1.02),
            share=exactly(update / 10), compile_seconds=1.0, flops=1e6,
            bytes_accessed=28.0 * 897_152,
        ),
        mesh=MeshCost(
            mesh="fsdp=8", devices=8, parameter_bytes=448_576,
            state_bytes=int(state * 897_152 / 8), collective_bytes={"all-reduce": exchanged},
        ),
    )  # fmt: skip
    return dataclasses.replace(record, **changes)


ADAMW = whole_record("adamw", 1.0, 1.0, 8.0)


def comparison(folder, *costs):
    """A comparison of 897,152 parameters with these costs and a run of each optimizer."""
    with RecordWriter(folder / "costs.jsonl") as writer:
        for cost in costs:
            run = run_record(cost.optimizer, 0)
            write_run(folder, [run, final_record(run, 2.0)])
            writer.write(cost)
    return load(folder)


def shown(table):
    """The table's cells as text, row by row."""
    return [[str(cell) for cell in row] for row in table.cells]


def test_the_cost_sheet_ends_with_the_baselines_second_copy(tmp_path):
    lion = whole_record("lion", 0.95, 0.5, 4.0)
    table = costs_table(comparison(tmp_path, ADAMW, lion))
    rows = shown(table)
    assert rows == [
        ["AdamW", "1.00× 0.98–1.03", "1.00× 1.00–1.00", "10.0% 10.0–10.0", "8 B/p", "50 MB"],
        ["Lion", "0.95× 0.93–0.98", "0.50× 0.50–0.50", "5.0% 5.0–5.0", "4 B/p", "50 MB"],
        ["AdamW again", "1.00× 0.98–1.01", "1.02× 1.02–1.02", "—", "—", "—"],
    ]
    assert "897k parameters, 16 × 256 tokens a step, on AMD EPYC" in table.caption
    assert "n = 30 rounds of whole steps and n = 150 of updates" in table.caption
    assert json.dumps(list(table.json_rows()))


def test_the_compilers_counts_are_of_the_step_and_of_the_update(tmp_path):
    counted = dataclasses.replace(ADAMW, flops=2e9, bytes_accessed=4e8, compile_seconds=5.0)
    (row,) = shown(counts_table(comparison(tmp_path, counted)))
    assert row == ["AdamW", "2B", "1M", "400 MB", "25.1 MB", "5.0 s", "1.0 s"]


def test_the_mesh_table_shows_what_is_shared_out_and_exchanged_or_why_it_is_not_known(tmp_path):
    muon = whole_record("muon", 1.2, 5.0, 4.0, exchanged=2500)
    whole_on_each = dataclasses.replace(ADAMW.mesh, state_bytes=2 * ADAMW.mesh.state_bytes)
    lamb = whole_record("lamb", 1.0, 1.0, 8.0, mesh=whole_on_each)
    lion = whole_record("lion", 1.0, 1.0, 4.0, mesh=None, mesh_reason="too slow")
    table = mesh_table(comparison(tmp_path, ADAMW, muon, lamb, lion))
    rows = {row[0]: row for row in shown(table)}
    assert table.title == "On a mesh of fsdp=8"
    assert "one device, which holds 449 kB of parameters" in table.caption
    assert rows["muon"][1:] == ["449 kB", "1.00×", "2.5 kB", "2.5 kB 2.50×"]
    assert rows["LAMB"][2] == "2.00×"
    assert rows["Lion too slow"][1:] == ["—"] * 4


def test_costs_of_before_the_cost_sheet_are_read_and_leave_its_tables_empty(tmp_path):
    line = {
        "kind": "cost", "schema": 1, "optimizer": "adamw", "title": "AdamW", "step_ratio": 1.0,
        "ratio_low": 1.0, "ratio_high": 1.0, "rounds": 9, "step_seconds": 0.02,
        "state_bytes_per_parameter": 8.0, "peak_bytes": 55563600, "compile_seconds": 4.7,
        "flops": 1794645248.0, "bytes_accessed": 399064384.0,
    }  # fmt: skip
    old = decode(json.dumps(line).encode())
    found = comparison(tmp_path, old)
    assert not any(make(found).rows for make in TABLES)


def test_a_cost_record_is_read_as_it_was_written():
    assert decode(encode(ADAMW)) == ADAMW
