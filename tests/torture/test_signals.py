"""Signals at real processes, at any time: a status, a sentence, and nothing that is lost."""

from __future__ import annotations

import os
import pty
import shutil
import signal
from signal import SIGHUP, SIGINT, SIGTERM, SIGUSR1

import pytest

from tests.support.torture import (
    TINY,
    assert_same_run,
    ended,
    exists,
    finish,
    further,
    holds_a_lock,
    prepared,
    recorded,
    saving,
    seeded,
    started,
    write_documents,
)

pytestmark = pytest.mark.torture

COMMAND = [
    "run", "nano", *TINY, "--steps", "1000", "--checkpoint-every", "200", "--out", "run",
    "--stop-status", "75",
]  # fmt: skip
SAVED = "the state is saved"
KEPT = "what was finished is kept"


@pytest.fixture(autouse=True)
def _a_terminal_may_close():
    before = signal.signal(SIGHUP, signal.SIG_DFL)  # Or the processes would inherit a `nohup`.
    yield
    signal.signal(SIGHUP, before)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(folder, *COMMAND)
    return folder / "run"


def test_a_run_stopped_in_every_way_ends_in_the_bits_of_an_undisturbed_one(tmp_path, undisturbed):
    rng = seeded()
    run = tmp_path / "run"
    # Each moment lies beyond what the process before may have done on its way out.
    stops = [
        (exists(tmp_path, "cache/jax/jit_train_step*"), [SIGTERM], {75}, KEPT),  # while it compiles
        (exists(tmp_path, "cache/jax/jit_train_step*"), [SIGINT], {130}, KEPT),
        (further(run), [SIGTERM], {75}, SAVED),
        (further(run, to=10), [SIGUSR1], {75}, SAVED),
        (further(run, to=20), [SIGHUP], {75}, SAVED),
        (further(run, to=30), [SIGINT], {130}, SAVED),
        (saving(run, after=30), [SIGTERM, SIGTERM], {75}, SAVED),
        # The second may come when the first has been obeyed: steps take 3 milliseconds.
        (further(run, to=rng.randrange(260, 270, 2)), [SIGINT, SIGTERM], {75, 130}, SAVED),
        (saving(run, after=270), [SIGINT, SIGINT], {130}, "stopped by SIGINT"),
    ]
    for moment, signals, expected, sentence in stops:
        shutil.rmtree(tmp_path / "cache" / "jax", ignore_errors=True)  # So that it compiles anew.
        with started(tmp_path, *COMMAND) as process:
            status, printed = process.until(moment).send(*signals, apart=0.0).ended()
        assert status in expected, printed
        assert sentence in printed
        assert "Traceback" not in printed
    finish(tmp_path, *COMMAND)
    assert_same_run(run, undisturbed, step=1000)


def test_a_run_outlives_its_terminal_until_its_state_is_saved(tmp_path, undisturbed):
    run = tmp_path / "run"
    terminal, its_end = pty.openpty()
    with started(tmp_path, *COMMAND, terminal=its_end) as process:
        os.close(its_end)
        process.until(recorded(run, 20))
        os.close(terminal)
        assert process.send(SIGHUP).ended()[0] == 75
    assert int(max(path.name for path in (run / "checkpoints").iterdir())) >= 20
    finish(tmp_path, *COMMAND)
    assert_same_run(run, undisturbed, step=1000)


@pytest.mark.parametrize(("signum", "expected"), [(SIGTERM, 0), (SIGINT, 130)])
def test_a_comparison_and_its_workers_stop_together_and_go_on(tmp_path, signum, expected):
    command = [
        "compare", "--only", "aardvark", "--seeds", "2", "--cost-rounds", "0", *TINY,
        "--steps", "2000", "--checkpoint-every", "2000", "--out", "comparison",
    ]  # fmt: skip
    runs = tmp_path / "comparison" / "runs"
    with started(tmp_path, *command) as process:  # compiling the second program
        process.until(ended(runs / "adamw-s0")).send(signum)
        status, printed = process.ended()
    assert (status, "Traceback" in printed) == (expected, False), printed
    with started(tmp_path, *command, "--workers", "2") as process:
        process.until(lambda: any(map(holds_a_lock, process.workers())))
        send = process.send if signum == SIGTERM else process.send_to_all
        status, printed = send(signum).ended()
    assert (status, "Traceback" in printed) == (expected, False), printed
    assert f"stopped by {signum.name}" in printed
    # All that had begun is saved, by whichever process.
    begun = [path.parent for path in runs.glob("*/records.jsonl")]
    assert all(list((run / "checkpoints").glob("[0-9]*")) for run in begun)


def test_a_ctrl_c_while_the_workers_import_is_one_sentence(tmp_path):
    command = ["compare", *TINY, "--steps", "20", "--out", "comparison", "--workers", "3"]
    with started(tmp_path, *command) as process:
        process.until(lambda: len(process.workers()) == 2, seeded().uniform(0.2, 1.0))
        status, printed = process.send_to_all(SIGINT).ended()
    assert status == 130, printed
    assert printed == f"stopped by SIGINT; {KEPT}. The same command goes on from there.\n"


def test_preparing_stops_with_its_workers_and_goes_on(tmp_path):
    write_documents(tmp_path / "documents", seeded())
    words = ["prepare", "--source", f"jsonl:{tmp_path / 'documents'}", "--shard-tokens", "1000000"]
    command = [*words, "--workers", "2", "--cache-dir", str(tmp_path / "stopped")]
    with started(tmp_path, *command) as process:
        process.until(exists(tmp_path / "stopped", ".*.work/*.part")).send_to_all(SIGTERM)
        status, printed = process.ended()
    assert status == 0, printed
    assert printed.endswith(f"stopped by SIGTERM; {KEPT}. The same command goes on from there.\n")
    assert exists(tmp_path / "stopped", ".*.work/*.part")()
    finish(tmp_path, *command)
    finish(tmp_path, *words, "--workers", "1", "--cache-dir", str(tmp_path / "undisturbed"))
    assert prepared(tmp_path / "stopped") == prepared(tmp_path / "undisturbed")
