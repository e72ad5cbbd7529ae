"""Whether optimizers stand in the same order under two conditions, and who changes places."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats

from tests.support.synthetic_comparison import final_record, run_record
from tests.support.synthetic_study import MICRO, WEBMIX
from train.report.comparison import ComparedRuns, Group, Run
from train.report.study.papers_order import agreement, agreements, spearman, tau_b
from train.report.study.parts import Contest, conditions_of

NAMES = ("adamw", "lion", "muon", "lamb", "stratopt")


def contest(losses, **changes):
    """A comparison of optimizers whose losses by seed are given; a NaN diverged."""
    groups = []
    for key, by_seed in losses.items():
        runs = []
        for seed, loss in by_seed.items():
            record = run_record(key, seed, title=key, **changes)
            final = final_record(record, loss, diverged=not math.isfinite(loss))
            runs.append(Run(record, (), (), final))
        groups.append(Group(key, key, tuple(runs), cost=None))
    comparison = ComparedRuns(tuple(groups), None, ())
    return Contest(conditions_of(run.record for run in comparison.runs), comparison)


def spaced(order, seeds=5, sd=0.001, gap=0.1):
    """Losses that rise along an order, with a little noise."""
    rng = np.random.default_rng(0)
    return {
        key: dict(enumerate(2.0 + gap * place + rng.normal(0, sd, seeds)))
        for place, key in enumerate(order)
    }


@pytest.mark.parametrize("seed", range(4))
def test_the_correlations_are_those_of_scipy_ties_included(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 5, (2, 8)).astype(float)
    assert tau_b(a, b) == pytest.approx(scipy.stats.kendalltau(a, b).statistic)
    assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic)


def test_many_orders_at_once_are_the_orders_one_by_one():
    a, b = np.random.default_rng(0).normal(size=(2, 6, 5))
    np.testing.assert_allclose(tau_b(a, b), [tau_b(*pair) for pair in zip(a, b, strict=True)])
    np.testing.assert_allclose(spearman(a, b), [spearman(*pair) for pair in zip(a, b, strict=True)])


def test_the_same_order_agrees_wholly_and_the_opposite_not_at_all():
    same = agreement(contest(spaced(NAMES)), contest(spaced(NAMES), steps=400))
    assert same.tau.value == same.rho.value == pytest.approx(1.0)
    assert (same.optimizers, same.seeds, same.told_apart, same.reversals) == (5, 5, 10, ())
    other = agreement(contest(spaced(NAMES)), contest(spaced(NAMES[::-1]), steps=400))
    assert other.tau.value == other.rho.value == pytest.approx(-1.0)
    assert len(other.reversals) == other.told_apart == 10


def test_a_reversal_names_the_better_one_of_the_first_comparison_first():
    swapped = ("lion", "adamw", *NAMES[2:])
    found = agreement(contest(spaced(NAMES)), contest(spaced(swapped), steps=400))
    assert found.reversals == (("adamw", "lion"),)
    assert found.tau.value == pytest.approx(0.8)


def test_who_is_not_told_apart_in_one_of_the_two_is_no_reversal():
    first, second = spaced(NAMES), spaced(("lion", "adamw", *NAMES[2:]))
    middle = np.mean(list(second["adamw"].values()))
    second["adamw"] = dict(enumerate(middle + np.array([-0.2, 0.2, -0.1, 0.1, 0.0])))
    found = agreement(contest(first), contest(second, steps=400))
    assert found.reversals == ()
    assert found.told_apart == 6  # of the ten, all pairs without AdamW


def test_noise_widens_the_interval_which_stays_between_one_and_minus_one():
    quiet, noisy = (
        agreement(contest(spaced(NAMES, sd=sd)), contest(spaced(NAMES, sd=2 * sd), steps=400)).tau
        for sd in (0.001, 0.2)
    )
    assert quiet.interval == pytest.approx((1.0, 1.0))
    low, high = noisy.interval
    assert -1.0 <= low < noisy.value <= high <= 1.0


def test_one_that_diverged_ranks_last():
    first, second = spaced(NAMES), spaced(NAMES)
    second["adamw"][2] = math.nan
    found = agreement(contest(first), contest(second, steps=400))
    means = [5.0, 1.0, 2.0, 3.0, 4.0]
    assert found.tau.value == pytest.approx(scipy.stats.kendalltau(range(5), means).statistic)


def test_a_seed_in_which_all_diverged_makes_the_interval_wide_and_no_error():
    first, second = spaced(NAMES), spaced(NAMES)
    for by_seed in second.values():
        by_seed[0] = math.nan
    found = agreement(contest(first), contest(second, steps=400))
    assert found.tau.value == 0.0  # All means are infinite.
    assert found.tau.interval[1] > 0.5


def test_seeds_and_optimizers_that_only_one_has_are_left_out():
    first, second = spaced(NAMES, seeds=5), spaced(NAMES[:4], seeds=3)
    found = agreement(contest(first), contest(second, steps=400))
    assert (found.optimizers, found.seeds) == (4, 3)
    del second["lamb"], second["muon"]
    assert agreement(contest(first), contest(second, steps=400)) is None


def test_one_seed_has_no_interval():
    found = agreement(contest(spaced(NAMES, 1)), contest(spaced(NAMES, 1), steps=400))
    assert found.tau.interval is None


def test_compared_is_what_differs_in_one_thing_and_who_stands_alone_with_its_nearest():
    losses = spaced(NAMES, seeds=2)
    short, long = contest(losses), contest(losses, steps=400)
    papers = contest(losses, learning_rate=3e-4)
    other_text = contest(losses, data=WEBMIX)
    # Another model, text and budget: nearest to the run of the same text.
    lone = contest(losses, data=WEBMIX, model=MICRO, steps=800)
    found = agreements([short, long, papers, other_text, lone])
    assert [one.first.differences(one.second) for one in found] == [
        ["tokens"], ["rate"], ["text"], ["size", "tokens"],
    ]  # fmt: skip
    assert found[-1].first == other_text.conditions


def test_conditions_are_told_in_words():
    conditions = contest(spaced(NAMES, 1), learning_rate=3e-4, data=WEBMIX).conditions
    assert str(conditions) == "3e-4, webmix, 897k parameters, 819k tokens"
    other = dataclasses.replace(conditions, batch_size=8, steps=2 * conditions.steps)
    assert conditions.differences(other) == ["batch"]
