"""Records survive what happens to files: kills, half-written lines, full disks, foreign bytes."""

import dataclasses
import json
import math
import resource
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.records.lines import (
    CostRecord,
    DataSummary,
    EvalRecord,
    FinalRecord,
    ModelSummary,
    RecordError,
    RecordWriter,
    RunRecord,
    StepRecord,
    decode,
    encode,
    read_records,
)

RUN = RunRecord(
    name="adamw-s0",
    optimizer="adamw",
    title="AdamW",
    seed=0,
    config_hash="c0ffee",
    commit="abc1234",
    device="cpu",
    device_count=1,
    versions={"jax": "0.10.2"},
    model=ModelSummary(name="nano", parameters=130_000, flops_per_token=8e5),
    data=DataSummary(
        source="stdlib", tokenizer="bytes", fingerprint="f00d", bytes_per_token=1.0, train_tokens=9
    ),
    batch_size=4,
    context=64,
    steps=10,
    learning_rate=3e-3,
    started="2026-01-01T00:00:00+00:00",
)
FINAL = FinalRecord(
    step=10,
    tokens=2560,
    train_loss=1.5,
    val_loss=1.6,
    bits_per_byte=2.3,
    seconds=4.0,
    device_seconds=4.0,
    peak_bytes=None,
    state_bytes_per_parameter=8.0,
    skipped=0,
    diverged=False,
)


def step(number: int, loss: float = 2.0) -> StepRecord:
    return StepRecord(
        step=number,
        tokens=256 * number,
        loss=loss,
        learning_rate=1e-3,
        grad_norm=1.0,
        grad_norms={"attention": 0.5},
        seconds=float(number),
    )


def evaluation(number: int) -> EvalRecord:
    return EvalRecord(step=number, tokens=256 * number, loss=2.0, bits_per_byte=2.9, seconds=1.0)


def write(path: Path, *records) -> Path:
    with RecordWriter(path) as writer:
        for record in records:
            writer.write(record)
    return path


def test_what_is_written_is_read_back_in_order(tmp_path):
    cost = CostRecord(
        optimizer="lion",
        title="Lion",
        step_ratio=0.9,
        ratio_low=0.8,
        ratio_high=1.0,
        rounds=20,
        step_seconds=0.1,
        state_bytes_per_parameter=4.0,
    )
    records = [RUN, step(1), evaluation(1), step(2), FINAL, cost]
    assert read_records(write(tmp_path / "made" / "records.jsonl", *records)) == records


def test_every_line_says_its_kind_and_schema(tmp_path):
    lines = write(tmp_path / "records.jsonl", RUN, step(1), FINAL).read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["run", "step", "final"]
    assert {json.loads(line)["schema"] for line in lines} == {1}


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_strict_json_and_comes_back(loss):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    line = encode(step(1, loss))
    json.loads(line, parse_constant=refuse)
    assert repr(decode(line).loss) == repr(loss)


def test_a_half_written_last_line_is_passed_over_with_a_notice_that_names_it(tmp_path):
    path = write(tmp_path / "records.jsonl", RUN, step(1), step(2))
    path.write_bytes(path.read_bytes()[:-20])
    notices = []
    assert read_records(path, notice=notices.append) == [RUN, step(1)]
    assert len(notices) == 1
    assert str(path) in notices[0]
    assert "line 3" in notices[0]


def test_a_last_line_that_lacks_only_its_newline_is_kept_and_completed(tmp_path):
    path = write(tmp_path / "records.jsonl", RUN, step(1))
    path.write_bytes(path.read_bytes()[:-1])
    write(path, step(2))
    assert read_records(path) == [RUN, step(1), step(2)]


def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(tmp_path):
    path = write(tmp_path / "records.jsonl", RUN, step(1), step(2))
    lines = path.read_bytes().split(b"\n")
    lines[1] = lines[1][:30]
    damaged = b"\n".join(lines)
    path.write_bytes(damaged)
    with pytest.raises(RecordError, match=r"records\.jsonl, line 2: not a whole JSON line"):
        read_records(path)
    with pytest.raises(RecordError, match="line 2"):
        RecordWriter(path, resume_after_step=1)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema is 2, this version reads 1"),
        ({"kind": "stop"}, "kind is 'stop', allowed are run, step, eval, final, cost"),
        ({"kind": ["step"]}, "kind is"),
        ({"loss": "low"}, "step.loss is 'low', which is no float"),
        ({"loss": 10**400}, "too large"),
        ({"step": 1.5}, "step.step is 1.5, which is no int"),
        ({"step": True}, "step.step is True, which is no int"),
        ({"grad_norms": {"head": None}}, "step.grad_norms.head is None"),
        ({"grad_norms": {"\ud800": 1.0}}, "surrogates"),
        ({"grad_norms": 3}, "step.grad_norms is 3"),
    ],
)
def test_a_record_of_the_wrong_form_is_refused(change, message):
    fields = {**json.loads(encode(step(1))), **change}
    with pytest.raises(RecordError, match=message):
        decode(json.dumps(fields).encode())


def test_a_missing_field_is_refused_and_a_later_versions_field_passed_over():
    fields = json.loads(encode(step(1)))
    assert decode(json.dumps({**fields, "temperature": 37}).encode()) == step(1)
    del fields["loss"]
    with pytest.raises(RecordError, match="step has no field 'loss'"):
        decode(json.dumps(fields).encode())


@given(st.binary() | st.from_regex(rb'\{"kind": "\w*", "schema": 1[^\n]*', fullmatch=True))
def test_any_bytes_are_a_record_or_a_record_error(line):
    try:
        decode(line)
    except RecordError:
        return
    assert json.loads(line)["schema"] == 1


def test_nesting_without_end_is_a_record_error():
    with pytest.raises(RecordError):
        decode(b"[" * 200_000)


def test_resuming_drops_what_will_be_written_again_and_nothing_else(tmp_path):
    path = write(
        tmp_path / "records.jsonl", RUN, step(1), evaluation(1), step(2), evaluation(2), FINAL
    )
    with RecordWriter(path, resume_after_step=1) as writer:
        assert writer.kept == (RUN, step(1), evaluation(1))
        for record in (step(2), evaluation(2), FINAL):
            writer.write(record)
    assert read_records(path) == [RUN, step(1), evaluation(1), step(2), evaluation(2), FINAL]


@pytest.mark.parametrize("checkpoint", [0, 3, 7, 10])
@pytest.mark.parametrize("lost_bytes", [0, 1, 15])
def test_a_killed_run_that_resumes_leaves_the_same_file_as_an_undisturbed_one(
    tmp_path, checkpoint, lost_bytes
):
    whole = [RUN, *[step(n) for n in range(1, 11)], FINAL]
    undisturbed = write(tmp_path / "undisturbed.jsonl", *whole)
    killed = write(tmp_path / "killed.jsonl", *whole[: checkpoint + 3])
    killed.write_bytes(killed.read_bytes()[: killed.stat().st_size - lost_bytes])
    with RecordWriter(killed, resume_after_step=checkpoint) as writer:
        for record in whole[checkpoint + 1 :]:
            writer.write(record)
    assert killed.read_bytes() == undisturbed.read_bytes()


def test_resuming_keeps_the_lines_as_they_were(tmp_path):
    path = tmp_path / "records.jsonl"
    foreign = json.dumps({"added_later": 1, **json.loads(encode(step(1)))}).encode() + b"\n"
    path.write_bytes(foreign + encode(step(2)))
    RecordWriter(path, resume_after_step=1).close()
    assert path.read_bytes() == foreign


def test_a_record_is_on_its_way_before_the_writer_is_closed(tmp_path):
    path = tmp_path / "records.jsonl"
    writer = RecordWriter(path)
    writer.write(RUN)
    assert read_records(path) == [RUN]
    writer.sync()
    writer.close()


def test_a_full_disk_leaves_whole_records_alone(tmp_path):
    path = write(tmp_path / "records.jsonl", RUN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with RecordWriter(path) as writer:
        try:
            # The kernel cuts the write at this size, as a full disk does.
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 40, limits[1]))
            with pytest.raises(OSError, match="no room for a whole record"):
                writer.write(step(1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        assert read_records(path, notice=pytest.fail) == [RUN]
        writer.write(step(1))
    assert read_records(path) == [RUN, step(1)]


def test_records_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RUN.seed = 1
