"""The checker: silent about records that hold together, one line for each thing that does not."""

import dataclasses
import math
import re

import pytest

from tests.support import ROOT
from tests.support.synthetic_comparison import STEPS, records, run_record, write_comparison
from train.config.plain import config_hash
from train.records.check import check_records
from train.records.files import pack
from train.records.lines import encode


def sound():
    """A run of which everything holds."""
    config = {"seed": 3, "steps": STEPS, "batch_size": 16, "context": 256, "cache": "cache/data"}
    run = run_record("adamw", 3, config=config, config_hash=config_hash(config))
    return list(records(run))


def problems(tmp_path, lines):
    path = tmp_path / "checked.jsonl"
    path.write_bytes(b"".join(map(encode, lines)))
    return [line.removeprefix(f"{path}, ") for line in check_records(path).problems]


def test_sound_records_have_no_problem(tmp_path):
    assert problems(tmp_path, sound()) == []
    pack(write_comparison(tmp_path, seeds=2), tmp_path / "packed.jsonl")
    checked = check_records(tmp_path / "packed.jsonl")
    assert checked.problems == ()
    assert str(checked) == "14 runs in 1 file: nothing wrong"


def test_a_run_that_diverged_and_steps_that_were_left_out_are_sound(tmp_path):
    assert problems(tmp_path, records(run_record("lion", 0), diverges_at=50)) == []
    lines = sound()
    lines[5] = dataclasses.replace(lines[5], loss=math.nan, skipped=1)
    assert problems(tmp_path, lines) == []


@pytest.mark.parametrize(
    ("at", "change", "message"),
    [
        (0, {"commit": "3c2b1a0f9e8d+"}, r"line 1: commit is '3c2b1a0f9e8d\+', which is no commit"),
        (0, {"commit": "unknown"}, "line 1: commit is 'unknown', which is no commit"),
        (0, {"config_hash": "c0ffee"}, "line 1: config_hash is 'c0ffee', and that of its config"),
        (0, {"seed": 4}, "line 1: seed is 4, and 3 in its config"),
        (0, {"device": "/home/me/gpu"}, "line 1: '/home/me/gpu' names a folder of the machine"),
        (0, {"title": "AdamW of ~/work"}, "line 1: 'AdamW of ~/work' names a folder"),
        (0, {"versions": {"jax": r"C:\jax"}}, "line 1: .* names a folder of the machine"),
        (2, {"tokens": 1}, "line 3: tokens is 1, and 1 steps make 4096"),
        (4, {"step": 2, "tokens": 8192}, "line 5: step 2 is after step 2"),
        (5, {"loss": math.nan}, "line 6: the loss is nan, and the run has not diverged"),
        (1, {"loss": math.inf}, "line 2: the loss is inf, and the run has not diverged"),
        (1, {"bits_per_byte": 1.0}, "line 2: bits_per_byte is 1.0, and the loss makes"),
        (-1, {"val_loss": 1.5, "bits_per_byte": 1.5 / math.log(2)}, "val_loss is 1.5, and the"),
        (-1, {"val_loss": math.nan}, "the loss is nan, and the run has not diverged"),
        (-1, {"step": 100, "tokens": 409_600}, "ended at step 100 of 200, not diverged"),
    ],
)
def test_each_thing_that_does_not_hold_is_a_line_with_file_and_line(tmp_path, at, change, message):
    lines = sound()
    lines[at] = dataclasses.replace(lines[at], **change)
    found = problems(tmp_path, lines)
    assert len(found) == 1
    assert re.search(message, found[0])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda lines: lines[:-1], "line 1: adamw-s3 has 0 final lines, expected one"),
        (lambda lines: [*lines, lines[-1]], "line 1: adamw-s3 has 2 final lines, expected one"),
        (lambda lines: [*lines[:-2], *lines[:-3:-1]], "goes on after its final line"),
        (lambda lines: lines[1:], "line 1: a record of kind 'eval' before any run's"),
        (lambda lines: [one for one in lines if one.kind != "eval"], "has no evaluation"),
        (lambda lines: [*lines, *lines], "adamw-s3 is the run of line 1 again"),
    ],
)
def test_lines_that_are_missing_misplaced_or_doubled_are_told(tmp_path, spoil, message):
    found = problems(tmp_path, spoil(sound()))
    assert any(message in line for line in found), found


def test_trials_share_their_seed_and_no_two_their_number(tmp_path):
    def trial(number):
        return records(run_record("lion", 1000, name=f"lion/{number}"))

    assert problems(tmp_path, [*trial(1), *trial(2)]) == []
    (found,) = problems(tmp_path, [*trial(1), *trial(1)])
    assert found.endswith("lion/1 is the run of line 1 again")


def test_another_schema_and_a_half_written_line_are_problems(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_bytes(b"".join(map(encode, sound())).replace(b'"schema": 1', b'"schema": 2', 1))
    assert "line 1: schema is 2, this version reads 1" in check_records(path).problems[0]
    path.write_bytes(b"".join(map(encode, sound()))[:-5])
    assert "not a whole JSON line" in "".join(check_records(path).problems)


def test_of_a_folder_only_records_are_checked_at_any_depth(tmp_path):
    write_comparison(tmp_path / "deep", optimizers=["lion"], seeds=1, costs=False)
    (tmp_path / "benchmark.jsonl").write_text('{"benchmark": "dispatch"}\n')
    assert check_records(tmp_path).files == 1


def test_paths_without_records_are_refused(tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        check_records(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no records"):
        check_records(tmp_path)


def test_the_records_in_the_repository_hold_together():
    assert check_records(ROOT / "results").problems == ()
