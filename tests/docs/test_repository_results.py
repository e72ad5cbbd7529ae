"""What the records in the repository must say before anything is built on them."""

import pytest

from tests.support import ROOT
from train.config.plain import run_config
from train.experiments.study import tuned_optimizers
from train.experiments.tuning import nano_tuning
from train.optimizers import OPTIMIZERS
from train.records.lines import RunRecord, read_records
from train.report.study.parts import read_study
from train.report.study.results import compute

STUDY = ROOT / "results" / "study"


@pytest.fixture(scope="module")
def results():
    return compute(read_study(STUDY))


def test_the_nano_comparison_is_at_the_settings_that_the_tuning_found():
    assert tuned_optimizers(nano_tuning(), STUDY / "tuning.jsonl") == tuple(
        kind.nano() for kind in OPTIMIZERS
    )


def test_every_optimizers_best_rate_lies_inside_the_grid(results):
    bottoms = {curve.sweep.title: curve.is_bottom_inside for curve in results.curves}
    assert len(bottoms) == len(OPTIMIZERS)
    assert all(bottoms.values())


def test_two_texts_two_sizes_and_at_least_three_budgets_were_compared(results):
    conditions = [contest.conditions for contest in results.study.contests]
    assert len({one.fingerprint for one in conditions}) >= 2
    assert len({one.parameters for one in conditions}) >= 2
    assert all(len(scaling.losses) >= 3 for _, scaling in results.scalings)


def test_every_comparison_has_five_seeds_and_that_of_the_larger_model_four(results):
    for contest in results.study.contests:
        seeds = 5 if contest.conditions.parameters == 133_440 else 4
        for group in contest.comparison.groups:
            assert len(group.finished) >= seeds


def test_the_configuration_of_every_run_can_be_built_again():
    records = (line for file in sorted(STUDY.glob("*.jsonl")) for line in read_records(file))
    runs = [record for record in records if isinstance(record, RunRecord)]
    assert len(runs) > 500
    for run in runs:
        assert run_config(run.config).optimizer.learning_rate == run.learning_rate
