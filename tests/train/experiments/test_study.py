"""A study: one tuning, then comparisons in which one thing changes at a time."""

import dataclasses

import pytest

from tests.support import tiny
from train.config.comparison import Comparison, Contestant
from train.config.run import Experiment
from train.data import DataConfig
from train.experiments.study import Study, comparisons, of_length, run_study, tuned_optimizers
from train.experiments.tuning import tuning_of
from train.optimizers import AdamW, Lion, StratOpt
from train.optimizers.search_space import search_space
from train.records.lines import FinalRecord, RunRecord, read_records

TUNED = (AdamW(learning_rate=2e-3), Lion(learning_rate=4e-4), StratOpt(learning_rate=1e-3))
OTHER = DataConfig(source="synthetic")
STUDY = Study(second_text=OTHER)
PARTS = comparisons(STUDY, TUNED)
SPARSE = {"log_every", "eval_every", "checkpoint_every"}


def differences(ours: Comparison, theirs: Comparison) -> set[str]:
    names = {field.name for field in dataclasses.fields(Experiment)}
    return {name for name in names if getattr(ours, name) != getattr(theirs, name)}


def test_what_is_compared_is_what_was_tuned():
    tuned = PARTS["tokens-400"]
    assert tuple(one.optimizer for one in tuned.contestants) == TUNED
    assert differences(tuned, STUDY.comparison) == set()
    assert (
        PARTS["second-text"].contestants == PARTS["larger-model"].contestants == tuned.contestants
    )


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("tokens-800", {"steps", "schedule", "log_every", "eval_every", "checkpoint_every"}),
        ("papers-rate", SPARSE),
        ("rates", SPARSE),
        ("second-text", SPARSE | {"data"}),
        ("larger-model", SPARSE | {"model"}),
    ],
)
def test_a_part_differs_from_the_main_one_in_what_it_is_about(part, changed):
    assert differences(PARTS[part], PARTS["tokens-400"]) == changed


def test_without_a_second_text_or_model_there_is_no_such_part():
    found = comparisons(Study(second_text=None, larger=None), TUNED)
    assert {"second-text", "larger-model"} & found.keys() == set()


def test_every_rate_that_was_tuned_over_is_on_the_grid_of_rates_and_so_is_the_papers():
    for optimizer in TUNED:
        title = type(optimizer).__name__
        rates = [
            one.optimizer.learning_rate
            for one in PARTS["rates"].contestants
            if one.title.startswith(f"{title} at ")
        ]
        (space,) = (
            one for one in search_space(optimizer).dimensions if one.field == "learning_rate"
        )
        assert 3e-4 in rates
        assert rates == sorted(rates)
        assert space.low <= rates[0] < 2.2 * space.low
        assert space.high / 2.2 < rates[-1] <= space.high


def test_at_the_papers_rate_nothing_is_tuned():
    assert PARTS["papers-rate"].contestants[1] == Contestant(Lion(learning_rate=3e-4))


def test_a_longer_run_warms_up_and_is_evaluated_in_the_same_proportions():
    longer = of_length(STUDY.comparison, 1000)
    assert longer.schedule.warmup_steps / longer.steps == 20 / 400
    assert longer.steps / longer.eval_every == 400 / 50
    assert longer.cost_rounds == 0  # Measured at the main length.


def test_budgets_that_are_no_lengths_are_refused():
    with pytest.raises(ValueError, match=r"budgets=\(100, 100\) are not allowed"):
        Study(budgets=(100, 100))


def small_study(tmp_path) -> Study:
    run = tiny.run_config(tmp_path / "cache")
    shared = run.terms
    comparison = Comparison(
        contestants=(Contestant(AdamW()), Contestant(Lion())), seeds=1, cost_rounds=0, **shared
    )
    return Study(comparison=comparison, trials=2, budgets=(4, 12), larger=None)


@pytest.mark.slow
def test_a_study_leaves_one_file_of_records_for_each_part_and_does_nothing_twice(tmp_path):
    study, folder, out = small_study(tmp_path), tmp_path / "runs", tmp_path / "results"
    done = []

    def share_out(name, work, steps):
        done.append(name)
        work()

    parts = ("tokens-4", "tokens-12")
    run_study(study, folder, out, share_out=share_out, only=parts)
    assert done == ["tuning", *parts]
    records = {name: read_records(out / f"{name}.jsonl") for name in done}
    assert [count(of, RunRecord) for of in records.values()] == [4, 2, 2]
    assert [count(of, FinalRecord) for of in records.values()] == [4, 2, 2]

    tuning = tuning_of(study.comparison, trials=2)
    tuned = tuned_optimizers(tuning, out / "tuning.jsonl")
    losses = {
        run.config["optimizer"]["learning_rate"]: final.val_loss
        for run, final in finals(records["tuning"])
        if run.optimizer == "adamw"
    }
    assert losses[tuned[0].learning_rate] == min(losses.values())
    used = {run.optimizer: run.learning_rate for run, _ in finals(records["tokens-4"])}
    assert used == {"adamw": tuned[0].learning_rate, "lion": tuned[1].learning_rate}

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("records.jsonl")}
    run_study(study, folder, out, share_out=share_out, only=parts)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("records.jsonl")}

    with pytest.raises(ValueError, match=r"--only tokens-5: no such part; choose from tokens-4"):
        run_study(study, folder, out, share_out=share_out, only=("tokens-5",))


def count(records, kind):
    return sum(isinstance(record, kind) for record in records)


def finals(records):
    runs = [record for record in records if isinstance(record, RunRecord)]
    return zip(runs, (r for r in records if isinstance(r, FinalRecord)), strict=True)
