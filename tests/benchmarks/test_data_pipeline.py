"""The benchmark of the data pipeline runs, judges and leaves a record."""

import json

import pytest

from benchmarks import data_pipeline
from benchmarks.data_pipeline import Options


@pytest.mark.parametrize(("target", "status"), [(1e-6, 0), (1e9, 1)])
def test_the_benchmark_judges_windows_by_the_target(tmp_path, monkeypatch, target, status):
    monkeypatch.setattr(data_pipeline, "TARGET", target)
    output = tmp_path / "results.jsonl"
    options = Options(tokens=50_000, contexts=(128, 1024), rounds=2, seconds=0.01, output=output)
    assert data_pipeline.main(options) == status
    record = json.loads(output.read_text())
    assert record["benchmark"] == "data_pipeline"
    rows = [(row["context"], row["packing"]) for row in record["rows"]]
    assert rows == [(c, kind) for c in (128, 1024) for kind in ("windows", "documents")]
    assert all(row["low"] <= row["median"] <= row["high"] for row in record["rows"])
