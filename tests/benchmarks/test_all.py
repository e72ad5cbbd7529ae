"""Running every benchmark: which, how each is called, and what the last table says."""

import dataclasses
import importlib
import sys

import pytest

from benchmarks import __main__ as everything
from benchmarks.__main__ import BENCHMARKS, Benchmark, Options


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_reads_the_options_that_it_is_called_with(name, tmp_path):
    module = importlib.import_module(f"benchmarks.{name}")
    known = {field.name for field in dataclasses.fields(module.Options)}
    for device in ("cpu", "gpu"):
        for quick in (False, True):
            words = everything.command(name, Options(device=device, quick=quick), tmp_path / "x")
            given = {word[2:].replace("-", "_") for word in words if word.startswith("--")}
            assert given <= known


def test_a_gpu_runs_what_says_something_about_it_in_under_25_minutes():
    names = everything.chosen(Options(device="gpu"))
    assert names[0] == "train_step"
    assert "data_pipeline" not in names
    assert sum(BENCHMARKS[name].minutes for name in names) <= 25


def test_an_unknown_benchmark_is_refused():
    with pytest.raises(ValueError, match="There is no benchmark 'speed'"):
        everything.chosen(Options(only=("speed",)))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("open(path, 'a').write('{}')", "met"),
        ("open(path, 'a').write('{}'); sys.exit(1)", "missed"),
        ("open(path, 'a').write('{}'); sys.exit(2)", "not trustworthy"),
        ("sys.exit('no such option')", "failed with status 1"),
        ("import time; time.sleep(60)", "stopped after 0.01 minutes"),
    ],
)
def test_a_benchmark_that_fails_is_told_from_one_that_misses(monkeypatch, tmp_path, code, expected):
    output = tmp_path / "x.jsonl"
    program = f"import sys; path = {str(output)!r}; {code}"
    monkeypatch.setitem(BENCHMARKS, "x", Benchmark(0.01))
    monkeypatch.setattr(everything, "command", lambda *_: [sys.executable, "-c", program])
    assert everything.run("x", Options(device="gpu"), output) == expected


def test_what_needs_a_package_that_is_missing_is_skipped(monkeypatch, tmp_path):
    monkeypatch.setitem(BENCHMARKS, "x", Benchmark(1, needs="no_such_package"))
    said = everything.run("x", Options(), tmp_path / "x.jsonl")
    assert said == "skipped: no_such_package is not installed"


def test_all_run_though_one_misses_and_the_status_says_so(monkeypatch, capsys):
    came_out = {"dispatch": "met", "input_wait": "missed"}
    monkeypatch.setattr(everything, "run", lambda name, *_: came_out[name])
    assert everything.main(Options(only=("dispatch", "input_wait"))) == 1
    assert everything.main(Options(only=("dispatch",))) == 0
    assert "input_wait │ missed" in " ".join(capsys.readouterr().out.split())
