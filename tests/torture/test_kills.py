"""kill -9 at random moments: the same command goes on, and ends as if nothing had happened."""

import os
import signal

import pytest

from tests.support.torture import (
    TINY,
    assert_same_run,
    ended,
    exists,
    finish,
    holds_a_lock,
    prepared,
    recorded,
    saving,
    seeded,
    started,
    write_documents,
)

pytestmark = pytest.mark.torture


def test_a_run_killed_eleven_times_ends_in_the_bits_of_an_undisturbed_one(tmp_path):
    rng = seeded()
    command = ["run", "nano", *TINY, "--steps", "120", "--checkpoint-every", "10", "--out", "run"]
    run, undisturbed = tmp_path / "killed" / "run", tmp_path / "undisturbed"
    run.parent.mkdir()
    undisturbed.mkdir()
    finish(undisturbed, *command)
    moments = [
        (exists(run.parent, "cache/jax"), rng.uniform(0.2, 1.5)),  # while it compiles
        (exists(run.parent, "cache/jax/jit_train_step*"), 0.0),  # while a program is written
        (recorded(run, 2), 0.0),
        (saving(run, after=0), rng.uniform(0.0, 0.02)),
        (recorded(run, rng.randrange(16, 26, 2)), rng.uniform(0.0, 0.02)),
        (saving(run, after=30), rng.uniform(0.0, 0.02)),
        (recorded(run, rng.randrange(46, 56, 2)), rng.uniform(0.0, 0.02)),
        (saving(run, after=60), rng.uniform(0.0, 0.02)),
        (recorded(run, rng.randrange(76, 86, 2)), rng.uniform(0.0, 0.02)),
        (saving(run, after=110), rng.uniform(0.0, 0.02)),  # the last one
        (ended(run), 0.0),  # as soon as it says so
    ]
    for moment, seconds in moments:
        with started(run.parent, *command) as process:
            process.until(moment, seconds).kill()
    finish(run.parent, *command)
    assert_same_run(run, undisturbed / "run", step=120)


def test_a_comparison_killed_five_times_ends_in_the_bits_of_an_undisturbed_one(tmp_path):
    rng = seeded()
    command = [
        "compare", "--only", "aardvark", "--seeds", "3", "--cost-rounds", "0", *TINY,
        "--steps", "800", "--checkpoint-every", "200", "--out", "comparison",
    ]  # fmt: skip
    shared = [*command, "--workers", "2"]
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "killed"
    for place in (undisturbed, folder):
        place.mkdir()
    finish(undisturbed, *command)
    runs = folder / "comparison" / "runs"
    first, second, third = (runs / name for name in ("adamw-s0", "aardvark-s0", "adamw-s1"))
    alone = [
        (recorded(first, rng.randrange(20, 500, 2)), 0.0),
        (ended(first), rng.uniform(0.0, 0.5)),  # between two runs
        (saving(second, after=200), rng.uniform(0.0, 0.02)),
    ]
    for moment, seconds in alone:
        with started(folder, *command) as process:
            process.until(moment, seconds).kill()
    with started(folder, *shared) as process:
        process.until(recorded(third, rng.randrange(20, 500, 2))).kill()
    with started(folder, *shared) as process:
        process.until(lambda: any(map(holds_a_lock, process.workers())), rng.uniform(0.0, 0.2))
        os.kill(*process.workers(), signal.SIGKILL)
        status, printed = process.ended()
    assert status == 0, printed  # The other one has done the rest.
    names = {path.name for path in runs.iterdir()}
    assert names == {f"{name}-s{seed}" for name in ("adamw", "aardvark") for seed in range(3)}
    for name in names:
        assert_same_run(runs / name, undisturbed / "comparison" / "runs" / name, step=800)


def test_preparing_killed_four_times_ends_in_the_bytes_of_an_undisturbed_one(tmp_path):
    rng = seeded()
    write_documents(tmp_path / "documents", rng)
    words = ["prepare", "--source", f"jsonl:{tmp_path / 'documents'}", "--shard-tokens", "1000000"]
    command = [*words, "--workers", "2", "--cache-dir", str(tmp_path / "killed")]
    cache = tmp_path / "killed"
    moments = [
        (exists(cache, ".*.work/*.tokens"), rng.uniform(0.0, 0.05)),
        (exists(cache, ".*.work/*.part", count=2), rng.uniform(0.0, 0.05)),
        (exists(cache, ".*.work/*.part", count=5), rng.uniform(0.0, 0.05)),
        (exists(cache, ".*.work/whole/*train*", count=2), rng.uniform(0.0, 0.005)),
    ]
    for moment, seconds in moments:
        with started(tmp_path, *command) as process:
            process.until(moment, seconds).kill()
    finish(tmp_path, *command)
    finish(tmp_path, *words, "--workers", "1", "--cache-dir", str(tmp_path / "undisturbed"))
    assert prepared(cache) == prepared(tmp_path / "undisturbed")
