"""A tuning: equal budgets, every trial once, by any number of workers, whatever becomes of them."""

import dataclasses
import errno
import functools
import itertools
import math
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from optuna.storages.journal import JournalFileBackend
from rich.console import Console

from tests.support import tiny
from tests.train.report.tuning.test_report import START, write_trial
from train.cli.progress import RunDisplay
from train.config.run import Experiment
from train.experiments import queue as heartbeat_module
from train.experiments.queue import Heartbeat, OverdueError, TrialQueue
from train.experiments.tune import tune
from train.experiments.tuning import Tuning, nano_tuning
from train.experiments.workers import other_workers
from train.host.disk import DiskError
from train.host.signals import Interrupted
from train.optimizers import AdamW, Lion, StratOpt
from train.optimizers.search_space import search_space
from train.records.lines import FinalRecord, RunRecord, read_records
from train.report.tuning.report import tuning_report
from train.run.folder import check_owner, finished
from train.run.train import StuckError

OPTIMIZERS = (AdamW(), Lion())
NAMES = {f"{name}/{number}" for name in ("adamw", "lion") for number in range(3)}


def tuning_of(cache, optimizers=OPTIMIZERS, **changes):
    """Three trials of each of two optimizers, four steps each."""
    shared = tiny.run_config(cache, steps=4, log_every=4, checkpoint_every=2)
    fields = {field.name: getattr(shared, field.name) for field in dataclasses.fields(Experiment)}
    spaces = tuple(map(search_space, optimizers))
    return Tuning(**{"spaces": spaces, "trials": 3, **fields, **changes})


@pytest.fixture
def tuning(tmp_path):
    return tuning_of(tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "tuning"


@pytest.fixture
def display():
    with RunDisplay(Console(quiet=True), 24) as display:
        yield display


@pytest.fixture
def workers(tuning, folder):
    """Two workers' queues on one folder, as two processes have them."""
    beats = [Heartbeat(folder / "workers", stale_after=60.0) for _ in range(2)]
    with beats[0], beats[1]:
        yield [TrialQueue(folder, tuning, beat) for beat in beats]


class Pretended:
    """Stands for training: writes a trial's records at once, and remembers what it was given."""

    def __init__(self, loss=2.0, pause=0.0):
        self.given, self._loss, self._pause = [], loss, pause

    def __call__(self, configs, folders, *, display, check):
        self.given += [f"{path.parent.name}/{path.name}" for path in folders]
        trials = folders[0].parent.parent
        trials.mkdir(exist_ok=True)
        (trials / f"{os.getpid()}.log").write_text("\n".join(self.given))
        for config, path in zip(configs, folders, strict=True):
            time.sleep(self._pause)
            if finished(path, config) is None:
                root, optimizer = path.parent.parent.parent, path.parent.name
                write_trial(root, optimizer, int(path.name), config, self._loss)
        return [finished(path, config) for config, path in zip(configs, folders, strict=True)]


def test_all_optimizers_get_as_many_trials_of_the_same_tokens_seed_and_data(tuning):
    runs = tuning.runs()
    assert {name: len(of_one) for name, of_one in runs.items()} == {"adamw": 3, "lion": 3}
    everything = list(itertools.chain(*runs.values()))
    assert len({dataclasses.replace(run, optimizer=AdamW()) for run in everything}) == 1
    assert [run.optimizer.learning_rate for run in (runs["adamw"][0], runs["lion"][0])] == [
        3e-4
    ] * 2


def test_all_optimizers_try_the_same_points_of_their_spaces(tuning):
    places = [
        [
            tuple(round(d.place(getattr(run.optimizer, d.field)), 3) for d in space.dimensions)
            for run in of_one[1:]
        ]
        for space, of_one in zip(tuning.spaces, tuning.runs().values(), strict=True)
    ]
    assert places[0] == places[1]
    assert len(set(places[0])) == 2


def test_the_seed_is_none_of_the_comparisons():
    tuning = nano_tuning()
    assert tuning.seed not in range(100)
    assert {
        run.steps * run.tokens_per_step for of_one in tuning.runs().values() for run in of_one
    } == {400 * 16 * 128}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"trials": 0}, "trials=0 is not allowed: it must be at least 1"),
        ({"sampler_seed": -1}, "sampler_seed=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"optimizers": ()}, "spaces of no optimizer"),
        ({"optimizers": (AdamW(), AdamW(clip=None))}, "spaces of adamw, adamw"),
        ({"steps": 0}, "steps=0"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_written(tmp_path, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        tuning_of(tmp_path, **change)


def test_a_trial_is_a_run_of_its_own_and_a_second_call_finds_it_done(folder, display, tmp_path):
    tuning = tuning_of(tmp_path / "cache", optimizers=(AdamW(),), trials=1)
    tune(tuning, folder, display)
    trial = folder / "trials" / "adamw" / "0"
    check_owner(trial / "config.json", tuning.runs()["adamw"][0])
    records = read_records(trial / "records.jsonl")
    assert isinstance(records[0], RunRecord)
    assert isinstance(records[-1], FinalRecord)
    assert records[-1].tokens == 4 * 8 * 16
    assert not (trial / "checkpoints").exists()  # Of all trials together they would fill the disk.

    again = Pretended()
    tune(tuning, folder, display, train_all=again)
    assert again.given == []
    assert tuning_report(folder, console=Console(quiet=True)).exists()


def test_every_optimizers_first_trial_goes_before_anyones_second(tuning, folder, display):
    pretended = Pretended()
    tune(tuning, folder, display, train_all=pretended)
    assert [name.split("/")[1] for name in pretended.given] == ["0", "0", "1", "1", "2", "2"]
    assert set(pretended.given) == NAMES


def test_a_population_is_of_one_optimizer(tuning, folder, display):
    sizes = []

    class Together(Pretended):
        def __call__(self, configs, folders, **rest):
            assert len({type(config.optimizer) for config in configs}) == 1
            sizes.append(len(configs))
            return super().__call__(configs, folders, **rest)

    together = Together()
    tune(tuning, folder, display, train_all=together, population=2)
    assert sizes == [2, 2, 1, 1]
    assert set(together.given) == NAMES


def test_a_population_of_nobody_is_refused(tuning, folder, display):
    with pytest.raises(ValueError, match="population=0 is not allowed: it must be at least 1"):
        tune(tuning, folder, display, population=0)
    assert not folder.exists()


def test_two_workers_never_get_one_trial(workers):
    first, second = workers
    taken = []
    while tasks := first.take() + second.take():
        taken += tasks
    assert sorted(task.name for task in taken) == sorted(NAMES)
    assert not first.is_done
    for task in taken:
        second.finish(task, 2.0)
    assert first.is_done
    assert {task.name for task in first.finished()} == NAMES


def test_what_is_given_back_is_done_by_another_and_what_is_finished_is_not(workers):
    first, second = workers
    tasks = first.take(2)
    first.finish(tasks[0], 2.0)
    first.give_back(tasks)
    others = []
    while more := second.take():
        others += more
    assert {task.name for task in others} == NAMES - {tasks[0].name}


def test_the_trial_of_a_worker_that_died_waits_again(tuning, folder):
    dead, alive = (Heartbeat(folder / "workers", stale_after=60.0) for _ in range(2))
    with dead, alive:
        [lost] = TrialQueue(folder, tuning, dead).take()
        queue = TrialQueue(folder, tuning, alive)
        held = [task.name for _ in range(5) for task in queue.take()]
        assert lost.name not in held
        assert queue.take() == []
        long_ago = time.time() - 61
        os.utime(folder / "workers" / dead.name, (long_ago, long_ago))
        [again] = queue.take()
        assert again.name == lost.name
        assert again.attempt != lost.attempt
        assert queue.take() == []


def test_a_kill_between_giving_a_trial_up_and_giving_it_out_again_loses_none(
    tuning, folder, monkeypatch
):
    with Heartbeat(folder / "workers") as dead, Heartbeat(folder / "workers") as alive:
        first = TrialQueue(folder, tuning, dead)
        tasks = first.take()
        with monkeypatch.context() as patch:
            patch.setattr(TrialQueue, "_add", None)
            with pytest.raises(TypeError):
                first.give_back(tasks)
        queue = TrialQueue(folder, tuning, alive)
        taken = [task.name for _ in range(6) for task in queue.take()]
    assert sorted(taken) == sorted(NAMES)


def test_half_a_line_of_a_journal_is_cut_off_and_the_others_go_on(tuning, folder, display):
    """As a full disk leaves it, or a machine without power."""

    class Torn(Pretended):
        def __call__(self, configs, folders, **rest):
            with (folder / "journal.log").open("a") as journal:
                journal.write('{"op_code":8,"worker')
            return super().__call__(configs, folders, **rest)

    torn, after = Torn(), Pretended()
    tune(tuning, folder, display, train_all=torn)
    tune(tuning, folder, display, train_all=after)
    assert (sorted(torn.given), after.given) == (sorted(NAMES), [])


def test_a_damaged_journal_is_named_and_can_be_deleted(tuning, folder, display):
    tune(tuning, folder, display, train_all=Pretended())
    journal = folder / "journal.log"
    journal.write_text(journal.read_text().replace("op_code", "opcode", 1))
    with pytest.raises(ValueError, match=r"journal.log is damaged .*: delete it. Trials that have"):
        tune(tuning, folder, display)
    journal.unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/*/records.jsonl")}
    tune(tuning, folder, display)
    assert len(before) == len(NAMES)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_full_disk_is_told_by_a_tuning(tuning, folder, display, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(JournalFileBackend, "append_logs", full)
    with pytest.raises(DiskError, match=r"takes no more .* the same command goes on"):
        tune(tuning, folder, display)


def test_a_worker_that_slept_too_long_goes_on_as_another(tuning, folder, display, monkeypatch):
    now = time.time()
    monkeypatch.setattr(heartbeat_module.time, "time", lambda: now)
    names = []

    class Sleepy(Pretended):
        def __call__(self, configs, folders, *, display, check):
            nonlocal now
            names.extend(path.name for path in (folder / "workers").iterdir())
            if len(names) == 2:
                now += 1000.0  # a laptop's lid
            check()
            return super().__call__(configs, folders, display=display, check=check)

    sleepy = Sleepy()
    tune(tuning, folder, display, train_all=sleepy)
    assert len(set(names)) == 2
    assert sorted(sleepy.given) == sorted(NAMES)


def test_an_overdue_worker_does_not_come_back_to_life(folder, monkeypatch):
    now = time.time()
    with Heartbeat(folder) as beat, Heartbeat(folder) as other:
        assert other.is_alive(beat.name)
        monkeypatch.setattr(heartbeat_module.time, "time", lambda: now + 1000.0)
        with pytest.raises(OverdueError, match="others may have taken over"):
            beat.is_alive(other.name)
    assert list(folder.iterdir()) == []


def test_a_stopped_tuning_goes_on_where_it_was(tuning, folder, display):
    class Stopping(Pretended):
        def __call__(self, configs, folders, **rest):
            if len(self.given) == 3:
                raise Interrupted(signal.SIGINT, 2)
            return super().__call__(configs, folders, **rest)

    first, second = Stopping(), Pretended()
    with pytest.raises(Interrupted):
        tune(tuning, folder, display, train_all=first)
    tune(tuning, folder, display, train_all=second)
    assert sorted(first.given + second.given) == sorted(NAMES)


def test_another_tuning_in_the_folder_is_refused(tuning, folder, display):
    tune(tuning, folder, display, train_all=Pretended())
    for change, sentence in (
        ({"steps": 8}, "steps: 8 here, 4 there"),
        ({"trials": 4}, "trials: 4 here, 3 there"),
        ({"sampler_seed": 1}, "sampler_seed: 1 here, 0 there"),
    ):
        with pytest.raises(ValueError, match=sentence):
            tune(dataclasses.replace(tuning, **change), folder, display)


@pytest.mark.parametrize("name", ["journal.log", "tuning.json.new", "trials", "workers"])
def test_a_link_in_the_folder_is_refused(tuning, folder, display, tmp_path, name):
    folder.mkdir()
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"{name} is a symbolic link"):
        tune(tuning, folder, display)
    assert not (tmp_path / "elsewhere").exists()


def test_a_diverged_trial_counts_as_infinitely_bad(tuning, folder, display):
    tune(tuning, folder, display, train_all=Pretended(loss=math.nan))
    with Heartbeat(folder / "workers") as beat:
        queue = TrialQueue(folder, tuning, beat)
        assert queue.is_done
        losses = [trial.value for study in queue._studies.values() for trial in study.trials]
    assert losses == [math.inf] * 6


def test_a_run_that_gets_stuck_is_a_diverged_trial(folder, display, tmp_path, monkeypatch):
    final = dataclasses.replace(_final(tmp_path), diverged=True)

    def stuck(*args, **kwargs):
        raise StuckError("stuck", final)

    monkeypatch.setattr("train.experiments.tune.train", stuck)
    tuning = tuning_of(tmp_path / "cache", optimizers=(StratOpt(),), trials=1)
    tune(tuning, folder, display)
    with Heartbeat(folder / "workers") as beat:
        [task] = TrialQueue(folder, tuning, beat).finished()
    assert task.name == "stratopt/0"


def _final(tmp_path):
    tuning = tuning_of(tmp_path, trials=1)
    write_trial(tmp_path / "other", "adamw", 0, tuning.runs()["adamw"][0], START)
    return read_records(tmp_path / "other" / "trials" / "adamw" / "0" / "records.jsonl")[-1]


def _pretend(tuning, folder, pause):
    """A worker process whose trials take `pause` seconds."""
    with RunDisplay(Console(quiet=True), 0) as display:
        tune(tuning, folder, display, train_all=Pretended(pause=pause), stale_after=3.0)


def test_processes_share_the_trials_and_outlive_one_that_is_killed(tuning, folder):
    context = multiprocessing.get_context("spawn")
    doomed, other = (
        context.Process(target=_pretend, args=(tuning, folder, pause)) for pause in (1e3, 0.1)
    )
    doomed.start()
    _wait_for(lambda: list(folder.glob("trials/*.log")))  # It is at work on its first trial.
    other.start()
    _wait_for(lambda: len(list(folder.glob("trials/*/*/records.jsonl"))) >= 5)
    os.kill(doomed.pid, signal.SIGKILL)
    other.join(300)
    assert other.exitcode == 0
    given = {int(path.stem): path.read_text().split() for path in folder.glob("trials/*.log")}
    assert len(given[doomed.pid]) == 1
    assert set(given[other.pid]) == NAMES


def _wait_for(condition):
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_a_population_trains_to_the_losses_of_its_members_alone(display, tmp_path):
    tuning = tuning_of(tmp_path / "cache", optimizers=(AdamW(),), trials=2)
    for name, population in (("alone", 1), ("together", 2)):
        tune(tuning, tmp_path / name, display, population=population)
    alone, together = (
        [
            read_records(tmp_path / name / "trials" / "adamw" / number / "records.jsonl")[
                -1
            ].val_loss
            for number in ("0", "1")
        ]
        for name in ("alone", "together")
    )
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert [
        path.name for path in sorted((tmp_path / "together" / "trials" / "adamw").iterdir())
    ] == ["0", "1"]


@pytest.mark.slow
def test_further_workers_on_this_machine_train_to_the_end(folder, display, tmp_path):
    tuning = tuning_of(tmp_path / "cache", optimizers=(AdamW(),))
    work = functools.partial(tune, tuning, folder)
    with other_workers(work, 1):
        work(display)
    trials = [read_records(path) for path in folder.glob("trials/*/*/records.jsonl")]
    assert [type(records[-1]) for records in trials] == [FinalRecord] * 3
    assert len({records[1].loss for records in trials}) == 1  # Before the first step.
    assert list((folder / "workers").iterdir()) == []


def test_several_workers_on_an_accelerator_and_none_at_all_are_refused(tuning, folder, monkeypatch):
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    work = functools.partial(tune, tuning, folder)
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES"), other_workers(work, 1):
        pass
    with pytest.raises(ValueError, match="workers=0 is not allowed"):
        other_workers(work, -1).__enter__()
    with other_workers(work, 0):
        assert not Path(folder).exists()
