"""A tuning: equal budgets, the same points for all, every trial once."""

import dataclasses
import itertools
import json
import signal
import types

import numpy as np
import pytest
from rich.console import Console

from tests.support import ROOT, tiny
from tests.train.report.tuning.test_report import START, write_trial
from train.experiments import sharing
from train.experiments import tuning as tuning_module
from train.experiments.tuning import Tuning, nano_tuning, sobol_points, tune
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
    fields = shared.terms
    spaces = tuple(map(search_space, optimizers))
    return Tuning(**{"spaces": spaces, "trials": 3, **fields, **changes})


@pytest.fixture
def tuning(tmp_path):
    return tuning_of(tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "tuning"


@pytest.fixture
def trained(monkeypatch):
    """The names of the trials, in groups, as they are trained, which is only pretended."""
    names = []

    def population(configs, folders, **_):
        assert len({type(config.optimizer) for config in configs}) == 1
        names.append([f"{path.parent.name}/{path.name}" for path in folders])
        for config, path in zip(configs, folders, strict=True):
            write_trial(path.parents[2], path.parent.name, int(path.name), config, 2.0)

    def alone(trial, *_):
        population([trial.config], [trial.folder])

    monkeypatch.setattr(tuning_module, "train_alone", alone)
    monkeypatch.setattr(tuning_module, "train_population", population)
    return names


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


def test_the_points_are_those_of_the_published_tuning():
    about = json.loads((ROOT / "results" / "study" / "tuning.json").read_text())
    rate, decay, b2 = (d for d in search_space(AdamW()).dimensions)
    tried = {}
    for record in read_records(ROOT / "results" / "study" / "tuning.jsonl"):
        if isinstance(record, RunRecord) and record.optimizer == "adamw":
            settings = types.SimpleNamespace(**record.config["optimizer"])
            places = [d.place(getattr(settings, d.field)) for d in (rate, decay, b2)]
            tried[int(record.name.split("/")[1])] = places
    points = sobol_points(about["trials"] - 1, 3, about["sampler_seed"])
    # Trial 0 is the defaults. Settings are rounded to three or so digits.
    np.testing.assert_allclose([tried[k + 1] for k in range(len(points))], points, atol=2e-3)


def test_a_trial_is_a_run_of_its_own_and_a_second_call_finds_it_done(folder, tmp_path, monkeypatch):
    tuning = tuning_of(tmp_path / "cache", optimizers=(AdamW(),), trials=1)
    tune(tuning, folder)
    trial = folder / "trials" / "adamw" / "0"
    check_owner(trial / "config.json", tuning.runs()["adamw"][0])
    records = read_records(trial / "records.jsonl")
    assert isinstance(records[0], RunRecord)
    assert isinstance(records[-1], FinalRecord)
    assert records[-1].tokens == 4 * 8 * 16
    assert not (trial / "checkpoints").exists()  # Of all trials together they would fill the disk.

    monkeypatch.setattr(sharing, "train", None)  # would fail if anything ran again
    tune(tuning, folder)
    assert tuning_report(folder, console=Console(quiet=True)).exists()


def test_every_optimizers_first_trial_goes_before_anyones_second(tuning, folder, trained):
    tune(tuning, folder)
    assert trained == [[f"{name}/{k}"] for k in range(3) for name in ("adamw", "lion")]


def test_a_population_is_of_one_optimizer(tuning, folder, trained):
    tune(tuning, folder, population=2)
    assert trained == [["adamw/0", "adamw/1"], ["lion/0", "lion/1"], ["adamw/2"], ["lion/2"]]


def test_trials_that_have_ended_are_in_no_further_population(tuning, folder, trained):
    adamw = tuning.runs()["adamw"]
    for number in range(2):
        write_trial(folder, "adamw", number, adamw[number], 2.0)
    tune(tuning, folder, population=3)
    assert trained == [["adamw/2"], ["lion/0", "lion/1", "lion/2"]]


def test_a_population_of_nobody_is_refused(tuning, folder):
    with pytest.raises(ValueError, match="population=0 is not allowed: it must be at least 1"):
        tune(tuning, folder, population=0)
    assert not folder.exists()


def test_a_stopped_tuning_goes_on_where_it_was(tuning, folder, trained, monkeypatch):
    with monkeypatch.context() as patch:
        alone = tuning_module.train_alone

        def stopping(trial, *rest):
            if len(trained) == 3:
                raise Interrupted(signal.SIGINT, 2)
            alone(trial, *rest)

        patch.setattr(tuning_module, "train_alone", stopping)
        with pytest.raises(Interrupted):
            tune(tuning, folder)
    assert len(trained) == 3
    tune(tuning, folder)
    assert sorted(itertools.chain(*trained)) == sorted(NAMES)


def test_another_tuning_in_the_folder_is_refused(tuning, folder, trained):
    tune(tuning, folder)
    for change, sentence in (
        ({"steps": 8}, "steps: 8 here, 4 there"),
        ({"trials": 4}, "trials: 4 here, 3 there"),
        ({"sampler_seed": 1}, "sampler_seed: 1 here, 0 there"),
    ):
        with pytest.raises(ValueError, match=sentence):
            tune(dataclasses.replace(tuning, **change), folder)


@pytest.mark.parametrize("name", [".lock", "tuning.json.new", "trials"])
def test_a_link_in_the_folder_is_refused(tuning, folder, tmp_path, name):
    folder.mkdir()
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"{name} is a symbolic link"):
        tune(tuning, folder)
    assert not (tmp_path / "elsewhere").exists()


def test_a_run_that_gets_stuck_is_a_diverged_trial(folder, tmp_path, monkeypatch):
    def stuck(config, folder, **_):
        write_trial(folder.parents[2], "stratopt", 0, config, 2 * START)
        raise StuckError("stuck", finished(folder, config))

    monkeypatch.setattr(sharing, "train", stuck)
    tuning = tuning_of(tmp_path / "cache", optimizers=(StratOpt(),), trials=1)
    tune(tuning, folder)
    trial = folder / "trials" / "stratopt" / "0"
    assert finished(trial, tuning.runs()["stratopt"][0]).diverged


@pytest.mark.slow
def test_a_population_trains_to_the_losses_of_its_members_alone(tmp_path):
    tuning = tuning_of(tmp_path / "cache", optimizers=(AdamW(),), trials=2)
    for name, population in (("alone", 1), ("together", 2)):
        tune(tuning, tmp_path / name, population=population)
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
