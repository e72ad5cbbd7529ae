"""Several processes at one folder: one writer, or work that is shared; never a mixture."""

from __future__ import annotations

import signal

import pytest

from tests.support.torture import (
    TINY,
    assert_same_run,
    finish,
    prepared,
    recorded,
    seeded,
    started,
    write_documents,
)

pytestmark = pytest.mark.torture


def test_a_second_writer_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    command = ["run", "nano", *TINY, "--steps", "120", "--checkpoint-every", "40"]
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    finish(tmp_path, *command, "--out", str(undisturbed))
    command += ["--out", str(run)]
    with started(tmp_path, *command) as first:
        first.until(recorded(run, 2)).send(signal.SIGSTOP)  # It keeps its lock.
        with started(tmp_path, *command) as second:
            status, printed = second.ended()
        assert status == 2
        assert "another process is writing into" in printed
        assert "Traceback" not in printed
        first.kill()
    finish(tmp_path, *command)
    assert_same_run(run, undisturbed, step=120)


def test_two_comparisons_at_once_share_the_runs(tmp_path):
    command = [
        "compare", "--only", "aardvark", "--seeds", "2", "--cost-rounds", "0", *TINY,
        "--steps", "300", "--checkpoint-every", "100",
    ]  # fmt: skip
    finish(tmp_path, *command, "--out", "undisturbed")
    together = [*command, "--out", "together"]
    with started(tmp_path, *together) as first, started(tmp_path, *together) as second:
        ends = [process.ended() for process in (first, second)]
    assert [status for status, _ in ends] == [0, 0], ends
    for run in (tmp_path / "undisturbed" / "runs").iterdir():
        assert_same_run(tmp_path / "together" / "runs" / run.name, run, step=300)


def test_two_that_prepare_the_same_text_make_it_once(tmp_path):
    write_documents(tmp_path / "documents", seeded())
    words = ["prepare", "--source", f"jsonl:{tmp_path / 'documents'}", "--shard-tokens", "1000000"]
    together = [*words, "--workers", "2", "--cache-dir", str(tmp_path / "together")]
    with started(tmp_path, *together) as first, started(tmp_path, *together) as second:
        ends = [process.ended() for process in (first, second)]
    assert [status for status, _ in ends] == [0, 0], ends
    finish(tmp_path, *words, "--workers", "1", "--cache-dir", str(tmp_path / "alone"))
    assert prepared(tmp_path / "together") == prepared(tmp_path / "alone")
