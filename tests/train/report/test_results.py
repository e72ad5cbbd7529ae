"""Results as files of many runs: packed, and read by the report from anywhere."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from tests.support.synthetic_comparison import (
    OFFSETS,
    cost_record,
    records,
    run_record,
    write_comparison,
    write_run,
)
from tests.train.report.tuning.test_report import tuning_of, write_tuning
from train.optimizers import AdamW, Lion
from train.records.files import pack, report_folder
from train.records.lines import RecordError, RecordWriter, RunRecord, decode, encode
from train.records.tuning import is_tuning
from train.report.comparison import load
from train.report.comparison_tables import results_table
from train.report.tuning.tables import trials_csv
from train.report.tuning.trials import load_results


def rows_of(*paths, **options):
    return list(results_table(load(*paths, **options)).json_rows())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_comparison(tmp_path_factory.mktemp("whole"), optimizers=("adamw", "lion"), seeds=2)


@pytest.fixture
def packed(folder, tmp_path):
    pack(folder, tmp_path / "packed.jsonl")
    return tmp_path / "packed.jsonl"


def test_a_packed_file_makes_the_same_tables_as_the_folder(folder, packed):
    assert rows_of(packed) == rows_of(folder)


def test_a_packed_file_has_one_optimizer_after_the_other_its_seeds_by_number_costs_last(tmp_path):
    folder = write_comparison(tmp_path / "c", optimizers=("lion", "adamw"), seeds=2)
    write_run(folder, records(run_record("lion", 10), last=1))
    pack(folder, tmp_path / "one.jsonl")
    kinds = [decode(line) for line in (tmp_path / "one.jsonl").read_bytes().splitlines()]
    names = [line.name for line in kinds if isinstance(line, RunRecord)]
    assert names == ["adamw-s0", "adamw-s1", "lion-s0", "lion-s1", "lion-s10"]
    assert {line.kind for line in kinds[-7:]} == {"cost"}
    pack(folder, tmp_path / "two.jsonl")
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def test_a_run_that_leaves_its_configuration_to_its_folder_is_packed_with_it(tmp_path):
    path = write_run(tmp_path, records(run_record("adamw", 0)))
    path.with_name("config.json").write_text(json.dumps({"steps": 200}))
    pack(tmp_path, tmp_path / "packed.jsonl")
    assert load(tmp_path / "packed.jsonl").runs[0].record.config == {"steps": 200}


def test_a_half_written_record_is_left_out_of_the_pack_with_a_line_that_names_it(tmp_path, caplog):
    path = write_run(tmp_path, records(run_record("adamw", 0), last=20))
    lines = path.read_bytes().count(b"\n")
    with path.open("ab") as file:
        file.write(b'{"kind": "st')
    pack(tmp_path, tmp_path / "packed.jsonl")
    assert f"adamw-s0/records.jsonl, line {lines + 1}: skipped a half-written" in caplog.text
    assert (tmp_path / "packed.jsonl").read_bytes().count(b"\n") == lines


def test_a_folder_without_runs_is_not_packed(tmp_path):
    with pytest.raises(ValueError, match="holds no runs to pack"):
        pack(tmp_path, tmp_path / "packed.jsonl")
    assert not (tmp_path / "packed.jsonl").exists()


@pytest.fixture(scope="module")
def tuning(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("tuning")
    folder = write_tuning(tmp_path / "t", tuning_of(tmp_path, 12, (AdamW(), Lion())))
    pack(folder, tmp_path / "packed" / "tuning.jsonl")
    return folder, tmp_path / "packed" / "tuning.jsonl"


def test_a_packed_tuning_is_the_tuning_with_its_search_spaces_beside_it(tuning):
    folder, packed = tuning
    assert is_tuning(folder)
    assert is_tuning(packed)
    assert trials_csv(load_results(packed)) == trials_csv(load_results(folder))
    assert [trial.number for trial in load_results(packed).tuned[0].trials] == list(range(12))


def test_a_folder_of_packed_files_is_no_tuning_though_it_holds_the_search_spaces_of_one(tuning):
    assert not is_tuning(tuning[1].parent)


def test_a_packed_tuning_without_its_search_spaces_is_refused(tuning, tmp_path):
    shutil.copy(tuning[1], tmp_path / "alone.jsonl")
    with pytest.raises(ValueError, match=r"alone\.jsonl holds no tuning"):
        load_results(tmp_path / "alone.jsonl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "adamw-s0"}, "line 1: 'adamw-s0' names no trial: expected <optimizer>/<number>"),
        ({"config": {}}, "line 1: the trial's settings are not there"),
    ],
)
def test_what_a_trial_lacks_is_said_with_file_and_line(tuning, tmp_path, change, message):
    first, *others = tuning[1].read_bytes().splitlines(keepends=True)
    changed = encode(dataclasses.replace(decode(first), **change))
    (tmp_path / "t.jsonl").write_bytes(b"".join([changed, *others]))
    shutil.copy(tuning[1].with_suffix(".json"), tmp_path / "t.json")
    with pytest.raises(ValueError, match=rf"t\.jsonl, {message}"):
        load_results(tmp_path / "t.jsonl")


def test_files_and_folders_from_anywhere_make_one_table(folder, packed, tmp_path):
    others = tmp_path / "others"
    for optimizer in ("lamb", "stratopt"):
        with RecordWriter(others / f"{optimizer}.jsonl") as writer:
            for line in records(run_record(optimizer, 0), offset=OFFSETS[optimizer]):
                writer.write(line)
    single = write_run(tmp_path / "single", records(run_record("aardvark", 1)))
    found = load(packed, others, single.parent)
    assert {group.key for group in found.groups} == {
        "adamw", "lion", "lamb", "stratopt", "aardvark",
    }  # fmt: skip
    assert found.runs[0].where.startswith(str(tmp_path))


def test_the_same_file_named_twice_is_read_once(packed):
    assert rows_of(packed, packed, packed.parent) == rows_of(packed)


def test_a_run_that_is_in_two_files_is_refused_with_both_lines(packed, folder):
    message = r"adamw-s0 \(.*packed\.jsonl, line 1\) and adamw-s0 \(.*records\.jsonl, line 1\)"
    with pytest.raises(ValueError, match=message):
        load(packed, folder, allow_mixed=True)


def test_a_second_cost_of_an_optimizer_is_left_out_with_a_notice(packed, tmp_path):
    with RecordWriter(tmp_path / "again.jsonl") as writer:
        writer.write(cost_record("lion", 9.0, 4.0))
    found = load(packed, tmp_path / "again.jsonl")
    (lion,) = (group for group in found.groups if group.key == "lion")
    assert lion.cost.step_ratio != 9.0
    (notice,) = found.notices
    assert "again.jsonl: its cost of Lion is left out" in notice


def test_other_peoples_fields_are_passed_over_and_missing_ones_named(packed, tmp_path):
    first, *others = packed.read_bytes().splitlines()
    fields = json.loads(first) | {"cluster": "moon", "config": {"anything": [1]}}
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_bytes(b"\n".join([json.dumps(fields).encode(), *others]))
    assert rows_of(foreign) == rows_of(packed)
    del fields["batch_size"]
    foreign.write_bytes(b"\n".join([json.dumps(fields).encode(), *others]))
    with pytest.raises(RecordError, match=r"foreign\.jsonl, line 1: run has no field 'batch_size'"):
        load(foreign)


def test_a_line_before_any_run_is_refused(packed):
    packed.write_bytes(b"\n" + packed.read_bytes().partition(b"\n")[2])
    with pytest.raises(RecordError, match=r"packed\.jsonl, line 2: .*'eval' before any run's"):
        load(packed)


def test_a_packed_file_that_was_cut_off_is_reported_with_what_is_whole(packed):
    lines = packed.read_bytes().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if b'"name": "lion-s1"' in line)
    packed.write_bytes(b"".join(lines[: last + 10])[:-30])
    found = load(packed)
    assert [run.record.name for group in found.groups for run in group.unfinished] == ["lion-s1"]
    (notice,) = found.notices
    assert notice == f"{packed}, line {last + 10}: skipped a half-written record"


def test_a_report_goes_into_its_folder_and_never_among_packed_files():
    assert report_folder(Path("runs/compare")) == Path("runs/compare/report")
    assert report_folder(Path("results/a.jsonl"), Path("b")) == Path("runs/report-a-b")
