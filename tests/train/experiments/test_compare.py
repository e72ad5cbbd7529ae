"""A comparison: equal terms, resumable anywhere, ending in costs and a report."""

import dataclasses
import functools

import numpy as np
import pytest
from rich.console import Console

from tests.support import tiny
from train.config.comparison import Comparison, Contestant
from train.experiments import compare as compare_module
from train.experiments import sharing
from train.experiments.compare import compare
from train.experiments.costs import measure as costs_module
from train.experiments.workers import other_workers
from train.host.signals import Interrupted
from train.optimizers import AdamW, StratOpt
from train.records.lines import CostRecord, EvalRecord, FinalRecord, StepRecord, read_records
from train.report.comparison_report import report
from train.run.folder import write_config


@pytest.fixture
def comparison(tmp_path, monkeypatch):
    # Compiling for a mesh takes a process of its own, see test_costs.
    monkeypatch.setattr(costs_module, "measure_mesh_costs", lambda runs, mesh: [""] * len(runs))
    shared = tiny.run_config(tmp_path / "cache")
    fields = shared.terms
    contestants = (
        Contestant(AdamW(learning_rate=1e-2)),
        Contestant(StratOpt(learning_rate=3e-3)),
    )
    return Comparison(contestants=contestants, seeds=2, cost_rounds=3, **fields)


def records_of(folder, name):
    return read_records(folder / "runs" / name / "records.jsonl")


def test_a_comparison_runs_everything_once_and_reports(comparison, tmp_path, monkeypatch):
    folder = tmp_path / "comparison"
    compare(comparison, folder)
    names = {path.name for path in (folder / "runs").iterdir()}
    assert names == {"adamw-s0", "adamw-s1", "stratopt-s0", "stratopt-s1"}
    starts = {
        name: next(r.loss for r in records_of(folder, name) if isinstance(r, EvalRecord))
        for name in names
    }
    firsts = {
        name: next(r.loss for r in records_of(folder, name) if isinstance(r, StepRecord))
        for name in names
    }
    # Within a seed: the same initial parameters. Across seeds: others.
    assert starts["adamw-s0"] == starts["stratopt-s0"] != starts["adamw-s1"]
    assert firsts["adamw-s0"] != firsts["stratopt-s0"]

    costs = read_records(folder / "costs.jsonl")
    assert [type(cost) for cost in costs] == [CostRecord] * 2
    assert costs[0].step_ratio == 1.0
    assert all(cost.step_seconds > 0 and cost.rounds == 3 for cost in costs)
    # AdamW and StratOpt both keep two moments in float32; StratOpt adds a number a layer.
    np.testing.assert_allclose([cost.state_bytes_per_parameter for cost in costs], 8.0, rtol=0.05)

    monkeypatch.setattr(sharing, "train", None)  # would fail if anything ran again
    monkeypatch.setattr(compare_module, "measure_costs", None)
    compare(comparison, folder)
    assert report(folder, console=Console(quiet=True)).exists()


@pytest.mark.parametrize("name", [".lock", "comparison.json.new", "runs", "costs.jsonl.new"])
def test_a_link_in_the_folder_is_refused(comparison, tmp_path, name):
    folder = tmp_path / "comparison"
    folder.mkdir()
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"{name} is a symbolic link"):
        compare(comparison, folder)
    assert not (tmp_path / "elsewhere").exists()


def test_a_stopped_comparison_goes_on_where_it_was(comparison, tmp_path, monkeypatch):
    folder = tmp_path / "comparison"
    real_train = sharing.train

    def stop_in_the_second_run(run, *args, **kwargs):
        if isinstance(run.optimizer, StratOpt):
            raise Interrupted(2, 3)
        return real_train(run, *args, **kwargs)

    monkeypatch.setattr(sharing, "train", stop_in_the_second_run)
    with pytest.raises(Interrupted):
        compare(comparison, folder)
    finished_at = (folder / "runs" / "adamw-s0" / "records.jsonl").stat().st_mtime_ns
    monkeypatch.setattr(sharing, "train", real_train)
    compare(comparison, folder)
    assert (folder / "runs" / "adamw-s0" / "records.jsonl").stat().st_mtime_ns == finished_at
    assert isinstance(records_of(folder, "stratopt-s1")[-1], FinalRecord)


def test_another_comparison_in_the_folder_is_refused(comparison, tmp_path):
    folder = tmp_path / "comparison"
    folder.mkdir()
    write_config(folder / "comparison.json", comparison)
    other = dataclasses.replace(comparison, steps=20)
    with pytest.raises(ValueError, match="steps: 20 here, 12 there"):
        compare(other, folder)


@pytest.mark.slow
def test_processes_share_the_runs_of_a_comparison(comparison, tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    compare(comparison, alone)
    work = functools.partial(compare, comparison, shared)
    with other_workers(work, 1):
        work()
    for name in ("adamw-s0", "adamw-s1", "stratopt-s0", "stratopt-s1"):
        ours, theirs = (records_of(folder, name)[-1].val_loss for folder in (alone, shared))
        np.testing.assert_allclose(theirs, ours, rtol=1e-5)
    assert len(read_records(shared / "costs.jsonl")) == 2
