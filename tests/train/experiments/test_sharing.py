"""Workers share runs: each is done once, in order, and a dead worker's by another."""

import functools
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import tiny
from tests.train.report.tuning.test_report import write_trial
from train.config.comparison import Comparison, Contestant
from train.experiments import sharing
from train.experiments.compare import compare
from train.experiments.sharing import Observer, SharedRun, share_out
from train.experiments.tuning import Tuning, tune
from train.optimizers import AdamW, Lion
from train.optimizers.search_space import search_space
from train.records.lines import FinalRecord, StepRecord, read_records
from train.run.folder import LOCK, TAKEN, BusyError, held

pytestmark = pytest.mark.faults


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(sharing, "POLL_SECONDS", 0.01)


@pytest.fixture
def runs(tmp_path):
    """Four, that train in no time."""
    config = tiny.run_config(tmp_path)
    return [
        SharedRun(f"adamw/{n}", tmp_path / "trials" / "adamw" / str(n), config) for n in range(4)
    ]


class Trained:
    """Pretends to train: writes the records of a run that has ended, and remembers its name."""

    def __init__(self, at_start=lambda run: None):
        self.names, self._at_start = [], at_start

    def __call__(self, group):
        for run in group:
            self.names.append(run.name)
            self._at_start(run)
            if not (run.folder / "records.jsonl").exists():
                write_trial(run.folder.parents[2], "adamw", int(run.folder.name), run.config, 2.0)


class Seen(Observer):
    def __init__(self):
        self.found, self.started, self.ended = [], [], []

    def run_found(self, name, steps, final):
        self.found.append(name)

    def run_started(self, name):
        self.started.append(name)

    def run_ended(self, name, steps, final):
        self.ended.append(name)


def alone(runs):
    return [[run] for run in runs]


def test_runs_are_begun_in_their_order_and_found_by_a_second_call(runs):
    trained, first, second = Trained(), Seen(), Seen()
    share_out(alone(runs), trained, first)
    names = [run.name for run in runs]
    assert trained.names == first.started == first.ended == names
    share_out(alone(runs), None, second)
    assert (second.found, second.started) == (names, [])


def test_a_group_is_shown_as_one_run_and_what_was_trained_with_it(runs):
    trained, seen = Trained(), Seen()
    share_out([runs[:3], runs[3:]], trained, seen)
    assert seen.started == ["adamw/0 and 2 more", "adamw/3"]
    assert (seen.ended, seen.found) == (["adamw/0", "adamw/3"], ["adamw/1", "adamw/2"])


def test_two_workers_train_no_run_twice(runs):
    both = threading.Barrier(2, timeout=60)
    first_runs = {"adamw/0", "adamw/1"}
    workers = [Trained(lambda run: run.name in first_runs and both.wait()) for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        for done in [
            pool.submit(share_out, alone(runs), trained, Observer()) for trained in workers
        ]:
            done.result()
    assert sorted(workers[0].names + workers[1].names) == [run.name for run in runs]


@pytest.mark.parametrize("lock", [LOCK, TAKEN])
def test_a_run_that_others_are_at_is_waited_for_and_comes_before_later_ones_when_they_die(
    runs, lock
):
    other = held(runs[0].folder, lock)
    other.__enter__()

    def let_go(run):
        if run.name == "adamw/2":
            other.__exit__(None, None, None)

    class Trainer(Trained):
        def __call__(self, group):
            with held(group[0].folder):
                pass
            super().__call__(group)

    trained = Trainer(let_go)
    share_out(alone(runs), trained, Observer())
    assert trained.names == [f"adamw/{n}" for n in (1, 2, 0, 3)]


def test_a_group_of_which_another_worker_has_a_part_is_left_alone(runs):
    trained, waits = Trained(), []
    other = held(runs[1].folder, TAKEN)
    other.__enter__()

    def wait(seconds):
        waits.append(list(trained.names))
        with pytest.raises(BusyError), held(runs[1].folder, TAKEN):
            pass
        with held(runs[0].folder, TAKEN):  # Given back, for others to take.
            other.__exit__(None, None, None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharing.time, "sleep", wait)
        share_out([runs[:2], runs[2:]], trained, Observer())
    assert waits == [["adamw/2", "adamw/3"]]
    assert sorted(trained.names) == [run.name for run in runs]


def test_an_error_lets_the_run_go(runs):
    with pytest.raises(ZeroDivisionError):
        share_out(alone(runs), lambda group: 1 / 0, Observer())
    with held(runs[0].folder, TAKEN):
        pass


# Processes that train, one of which is killed.


def small_comparison(cache):
    contestants = (Contestant(AdamW()), Contestant(Lion()))
    return Comparison(contestants=contestants, seeds=2, cost_rounds=0, **_terms(cache))


def small_tuning(cache):
    return Tuning(spaces=(search_space(AdamW()), search_space(Lion())), trials=2, **_terms(cache))


def _terms(cache):
    shared = tiny.run_config(cache, log_every=1)
    return shared.terms


class Told(Observer):
    """Writes what a worker does into a file; comes no further than a step of a run of its own."""

    def __init__(self, path, last_run=None, last_step=None):
        self._path, self._last = path, (last_run, last_step)
        self._begun = []

    def run_started(self, name):
        self._begun.append(name)
        self._is_first = True

    def run_progress(self, progress):
        if self._is_first:
            with self._path.open("a") as file:
                print(self._begun[-1], progress.step, file=file)
        self._is_first = False
        if (len(self._begun), progress.step) == self._last:
            self._path.with_suffix(".hangs").touch()
            time.sleep(1e3)


def _work(work, observer):
    work(observer)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("do", "experiment"),
    [
        (compare, small_comparison),
        (tune, small_tuning),
        (functools.partial(tune, population=2), small_tuning),
    ],
    ids=["compare", "tune", "populations"],
)
def test_what_a_killed_worker_was_at_another_goes_on_with(do, experiment, tmp_path):
    folder, spawn = tmp_path / "shared", multiprocessing.get_context("spawn")
    work = functools.partial(do, experiment(tmp_path / "cache"), folder)
    # One is killed in its second run (of which a population trains both), after its checkpoint.
    is_population = "population" in getattr(do, "keywords", {})
    doomed_log, other_log = tmp_path / "doomed", tmp_path / "other"
    told = Told(doomed_log, 1 if is_population else 2, last_step=9)
    doomed = spawn.Process(target=_work, args=(work, told))
    other = spawn.Process(target=_work, args=(work, Told(other_log)))
    doomed.start()
    try:
        _wait_for(doomed_log.with_suffix(".hangs").exists)
        other.start()
        _wait_for(other_log.exists)
        os.kill(doomed.pid, signal.SIGKILL)
        other.join(300)
        assert other.exitcode == 0
    finally:
        doomed.kill()
        other.kill()
    before, after = (path.read_text().splitlines() for path in (doomed_log, other_log))
    lost = before[-1].removesuffix(" 1")
    # The lost run goes on from its checkpoint, the others begin; none that had ended is done again.
    assert f"{lost} 9" in after
    assert all(line == f"{lost} 9" or line.endswith(" 1") for line in after)
    assert len({*before, *after}) == len(before) + len(after) == (3 if is_population else 5)
    for path in folder.rglob("records.jsonl"):
        records = read_records(path)
        steps = [record.step for record in records if isinstance(record, StepRecord)]
        assert steps == list(range(1, 13))
        assert sum(isinstance(record, FinalRecord) for record in records) == 1
    if do is not compare:
        assert not list(folder.rglob("checkpoints"))
        assert not list(folder.rglob("population-*"))


def _wait_for(condition):
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
