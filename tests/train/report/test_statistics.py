"""Intervals, paired differences and curves are what statistics says, numbers what people write."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tests.support.synthetic_comparison import records, run_record, write_run
from train.host import units
from train.report.comparison import load
from train.report.comparison_figures import (
    difference_curve,
    smoothed,
    spread,
    training_curve,
    validation_curve,
)
from train.report.statistics import Estimate, estimate, paired_difference

losses = st.floats(0.1, 10)


def test_three_values_by_hand():
    found = estimate([1.0, 2.0, 3.0])
    assert (found.n, found.mean, found.sd) == (3, 2.0, 1.0)
    assert found.half_width == pytest.approx(4.302652729911275 / math.sqrt(3))
    assert (found.low, found.high) == (2 - found.half_width, 2 + found.half_width)


@given(st.lists(losses, min_size=2, max_size=9).filter(lambda values: np.std(values) > 1e-6))
def test_the_interval_is_students(values):
    low, high = scipy.stats.t.interval(
        0.95, len(values) - 1, loc=np.mean(values), scale=scipy.stats.sem(values)
    )
    found = estimate(values)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_one_value_has_no_interval_and_shows_nothing():
    found = estimate([1.5])
    assert found == Estimate(n=1, mean=1.5, sd=None, half_width=None)
    assert not found.excludes_zero


def test_no_value_is_no_estimate():
    with pytest.raises(ValueError, match="at least one value"):
        estimate([])


@pytest.mark.parametrize(
    ("values", "excludes"),
    [([0.1, 0.11, 0.12], True), ([-0.1, -0.11, -0.12], True), ([-0.1, 0.2, 0.1], False)],
)
def test_an_interval_excludes_zero_on_either_side(values, excludes):
    assert estimate(values).excludes_zero is excludes


def test_pairing_by_seed_cancels_what_the_seed_does():
    baseline = {0: 1.0, 1: 2.0, 2: 4.0}
    shifted = {seed: loss + 0.25 for seed, loss in baseline.items()}
    assert paired_difference(shifted, baseline) == Estimate(n=3, mean=0.25, sd=0.0, half_width=0.0)


def test_pairing_takes_the_seeds_that_both_have():
    found = paired_difference({0: 1.0, 1: 3.0, 5: 9.0}, {1: 1.0, 0: 0.5, 7: 0.0})
    assert found == estimate([0.5, 2.0])
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


@given(st.lists(losses, min_size=1, max_size=200))
def test_smoothing_is_the_mean_over_the_window_that_exists(values):
    reach = round(0.04 * len(values) / 2)
    naive = [
        np.mean(values[max(0, index - reach) : index + reach + 1]) for index in range(len(values))
    ]
    np.testing.assert_allclose(smoothed(np.array(values)), naive, rtol=1e-9)


@pytest.fixture
def comparison(tmp_path):
    for optimizer in ("adamw", "lion"):
        for seed in range(3):
            write_run(
                tmp_path, records(run_record(optimizer, seed), offset=0.1 * (optimizer == "lion"))
            )
    return load(tmp_path)


def test_a_curve_is_the_mean_of_the_seeds_and_its_band_their_range(comparison):
    runs = comparison.groups[0].runs
    curve = validation_curve(runs)
    by_seed = np.array([[line.loss for line in run.evals] for run in runs])
    np.testing.assert_array_equal(curve.tokens, [line.tokens for line in runs[0].evals])
    np.testing.assert_allclose(curve.mean, by_seed.mean(0))
    np.testing.assert_array_equal([curve.low, curve.high], [by_seed.min(0), by_seed.max(0)])


def test_a_difference_curve_is_paired_by_seed(comparison):
    adamw, lion = comparison.groups
    curve = difference_curve(lion, adamw)
    last = [
        run.evals[-1].loss - other.evals[-1].loss
        for run, other in zip(lion.runs, adamw.runs, strict=True)
    ]
    assert curve.mean[-1] == pytest.approx(np.mean(last))
    assert (curve.low[-1], curve.high[-1]) == pytest.approx((min(last), max(last)))
    assert not np.any(difference_curve(adamw, adamw).mean)


def test_a_long_curve_is_thinned_but_keeps_its_ends(tmp_path):
    write_run(tmp_path, records(run_record("adamw", 0, steps=1000), last=1000))
    (run,) = load(tmp_path).runs
    curve = training_curve([run])
    assert len(curve.tokens) < len(run.steps)
    assert (curve.tokens[0], curve.tokens[-1]) == (run.steps[0].tokens, run.steps[-1].tokens)


@given(st.lists(st.floats(0, 1), max_size=40).map(sorted))
def test_labels_are_moved_apart_inside_the_axes_and_keep_their_order(heights):
    gap = min(0.068, 1 / max(len(heights), 1))
    moved = spread(heights)
    assert all(later - earlier >= gap - 1e-9 for earlier, later in itertools.pairwise(moved))
    assert all(-1e-9 <= height <= 1 + 1e-9 for height in moved)


def test_labels_that_lie_apart_stay_where_they_are():
    assert spread([0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9])


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (units.count(134_217_728), "134M"),
        (units.count(999_600), "1M"),
        (units.count(999_400), "999k"),
        (units.count(42), "42"),
        (units.size(18_700_000_000), "18.7 GB"),
        (units.size(512), "512 B"),
        (units.size(0), "0"),
        (units.duration(80.04), "80.0 s"),
        (units.duration(192), "3.2 min"),
        (units.duration(71_280), "19.8 h"),
        (units.number(-0.01234, 3), "−0.012"),
        (units.number(0.01234, 3, sign=True), "+0.012"),
        (units.number(math.nan, 3), "—"),
        (units.listing(["a"]), "a"),
        (units.listing(["a", "b", "c"]), "a, b and c"),
        (units.plural(1, "seed"), "1 seed"),
        (units.plural(2, "seed"), "2 seeds"),
    ],
)
def test_numbers_read_as_people_write_them(shown, expected):
    assert shown == expected
