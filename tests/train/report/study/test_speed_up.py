"""What an optimizer is worth in data: the curve, what is read off it, and how sure that is."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.optimize import least_squares

from tests.support.synthetic_comparison import final_record, run_record
from train.report.comparison import ComparedRuns, Group, Run
from train.report.statistics import estimate
from train.report.study.speed_up import data_speed_ups, fit_curve, resamples

TOKENS = np.array([1.0, 2.0, 4.0, 8.0]) * 204_800


def power_law(tokens, floor=1.4, scale=0.9, exponent=0.45, unit=8e5):
    return floor + scale * (np.asarray(tokens) / unit) ** -exponent


def group(key, losses):
    """An optimizer whose losses by seed are given; those that are not finite diverged."""
    runs = []
    for seed, loss in losses.items():
        record = run_record(key, seed)
        final = final_record(record, loss, diverged=not math.isfinite(loss))
        runs.append(Run(record, (), (), final))
    return Group(key, key, tuple(runs), cost=None)


def budgets_of(losses_of, tokens=TOKENS):
    """Comparisons by budget; `losses_of` gives losses by seed for each optimizer's key."""
    return {
        int(size): ComparedRuns(
            tuple(group(key, losses) for key, losses in losses_of(size).items()), None, ()
        )
        for size in tokens
    }


def noisy(rng, sd=0.005, shared=0.02, seeds=5, worth=1.25):
    """Comparisons of AdamW and one that is worth so much; the seed does the same to both."""

    def losses_of(size):
        common = rng.normal(0, shared, seeds)
        return {
            key: dict(enumerate(power_law(factor * size) + common + rng.normal(0, sd, seeds)))
            for key, factor in (("adamw", 1.0), ("muon", worth))
        }

    return budgets_of(losses_of)


def test_a_power_law_is_found_again_from_its_own_losses():
    curve = fit_curve(TOKENS, power_law(TOKENS))
    assert curve.floor == pytest.approx(1.4, abs=1e-6)
    assert curve.exponent == pytest.approx(0.45, rel=1e-6)
    np.testing.assert_allclose(curve.loss(3e5), power_law(3e5), rtol=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_the_curve_is_the_one_of_least_squares(seed):
    losses = power_law(TOKENS) + np.random.default_rng(seed).normal(0, 0.01, TOKENS.size)
    curve = fit_curve(TOKENS, losses)
    best = least_squares(
        lambda c: power_law(TOKENS, *c, curve.unit) - losses,
        x0=(1.0, 1.0, 0.5), bounds=([0.0, 0.0, 0.01], [np.inf, np.inf, 10.0]),
        xtol=1e-14, ftol=1e-14, gtol=1e-14,
    )  # fmt: skip
    mine = ((curve.loss(TOKENS) - losses) ** 2).sum()
    assert mine <= 2 * best.cost * (1 + 1e-6)
    np.testing.assert_allclose(curve.loss(TOKENS), losses + best.fun, atol=1e-5)


def test_a_floor_below_zero_is_not_allowed():
    losses = power_law(TOKENS, floor=-0.5, scale=3.0)
    curve = fit_curve(TOKENS, losses)
    assert curve.floor == 0.0
    assert np.abs(curve.loss(TOKENS) - losses).max() > 1e-3


def test_many_curves_at_once_are_the_curves_one_by_one():
    losses = power_law(TOKENS) + np.random.default_rng(0).normal(0, 0.01, (3, 4))
    together = fit_curve(TOKENS, losses)
    for index, own in enumerate(losses):
        alone = fit_curve(TOKENS, own)
        assert together.floor[index] == pytest.approx(alone.floor)
        assert together.exponent[index] == pytest.approx(alone.exponent)


def test_two_budgets_are_refused_and_give_no_number():
    with pytest.raises(ValueError, match="at least 3 token budgets, got 2"):
        fit_curve([1e5, 2e5, 2e5], [3.0, 2.0, 2.0])
    assert data_speed_ups(budgets_of(lambda size: {"adamw": {0: 1e5 / size}}, TOKENS[:2])) is None
    assert data_speed_ups(budgets_of(lambda size: {"lion": {0: 1e5 / size}})) is None


def test_tokens_are_the_inverse_of_the_loss_and_infinite_at_the_floor():
    curve = fit_curve(TOKENS, power_law(TOKENS))
    np.testing.assert_allclose(curve.tokens(power_law(5e5)), 5e5, rtol=1e-6)
    assert curve.tokens(1.39) == math.inf


def test_an_optimizer_worth_a_quarter_more_is_found_so_at_every_budget():
    scaling = data_speed_ups(noisy(np.random.default_rng(0), sd=0.0, shared=0.0))
    assert [one.factor for one in scaling.speed_ups["muon"].values()] == pytest.approx([1.25] * 4)
    assert [one.factor for one in scaling.speed_ups["adamw"].values()] == pytest.approx([1.0] * 4)
    assert scaling.residuals == pytest.approx([0.0] * 4, abs=1e-6)


def test_the_curve_agrees_with_straight_lines_between_the_budgets():
    budgets = noisy(np.random.default_rng(1), sd=0.001, shared=0.0, worth=0.8)
    scaling = data_speed_ups(budgets)
    losses = np.array(list(scaling.losses.values()))
    for tokens in list(budgets)[1:]:  # Below the first budget there is no line.
        one = scaling.speed_ups["muon"][tokens]
        naive = np.exp(np.interp(-one.loss.mean, -losses, np.log(TOKENS))) / tokens
        assert one.factor == pytest.approx(naive, rel=0.04)


def test_what_the_curve_misses_adamw_by_cancels():
    """A law that falls ever faster in the logarithm of the tokens, which no power law does."""

    def losses_of(size):
        loss = 3.0 - 0.1 * math.log(size / 1e5) ** 2
        return {"adamw": {0: loss}, "equal": {0: loss}, "better": {0: loss - 0.01}}

    scaling = data_speed_ups(budgets_of(losses_of))
    assert min(scaling.misfits) < 0.95
    assert max(scaling.misfits) > 1.05
    for tokens in scaling.losses:
        assert scaling.speed_ups["equal"][tokens].factor == pytest.approx(1.0)
        assert scaling.speed_ups["better"][tokens].factor > 1.0


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        scaling = data_speed_ups(noisy(rng, seeds=3))
        one = scaling.speed_ups["muon"][int(TOKENS[2])]
        hits += one.low <= 1.25 <= one.high
    assert 88 <= hits <= 100


def test_what_a_seed_does_to_both_cancels():
    shifts = np.array([-0.04, -0.01, 0.0, 0.02, 0.03])

    def width(turned):
        """Of the interval, where Muon's seeds are AdamW's, or turned against them."""
        scaling = data_speed_ups(
            budgets_of(
                lambda size: {
                    "adamw": dict(enumerate(power_law(size) + shifts)),
                    "muon": dict(enumerate(power_law(1.2 * size) + np.roll(shifts, turned))),
                }
            )
        )
        one = scaling.speed_ups["muon"][int(TOKENS[0])]
        return one.high - one.low

    assert width(turned=0) < 1e-6 < 0.05 < width(turned=2)


def test_far_beyond_the_budgets_is_marked_and_below_the_floor_is_infinite():
    worth = {"adamw": 1.0, "within": 1.9, "beyond": 2.1, "behind": 0.3}

    def losses_of(size):
        found = {key: {0: float(power_law(factor * size))} for key, factor in worth.items()}
        return found | {"never": {0: 1.3}}

    speed_ups = data_speed_ups(budgets_of(losses_of)).speed_ups
    first, last = int(TOKENS[0]), int(TOKENS[-1])
    marked = {
        key: (own[first].is_extrapolated, own[last].is_extrapolated)
        for key, own in speed_ups.items()
    }
    assert marked == {
        "adamw": (False, False),
        "within": (False, False),
        "beyond": (False, True),
        "behind": (True, False),
        "never": (True, True),
    }  # fmt: skip
    assert speed_ups["never"][last].factor == math.inf


def test_an_interval_that_reaches_the_floor_has_no_upper_end():
    rng = np.random.default_rng(0)

    def losses_of(size):
        own = rng.normal(1.41, 0.03, 5)
        return {
            "adamw": dict(enumerate(power_law(size) + rng.normal(0, 0.001, 5))),
            "muon": dict(enumerate(own)),
        }

    one = data_speed_ups(budgets_of(losses_of)).speed_ups["muon"][int(TOKENS[-1])]
    assert one.high == math.inf
    assert math.isfinite(one.low)


def test_one_seed_has_no_interval_and_a_seed_that_only_one_has_is_left_out():
    def losses_of(size):
        return {
            "adamw": {0: float(power_law(size)), 1: float(power_law(size))},
            "muon": {1: float(power_law(1.2 * size)), 2: 0.1, 3: math.nan},
        }

    scaling = data_speed_ups(budgets_of(losses_of))
    one = scaling.speed_ups["muon"][int(TOKENS[0])]
    assert (one.seeds, one.diverged, one.low, one.high) == (1, 1, None, None)
    assert one.factor == pytest.approx(1.2)
    assert scaling.seeds == (0, 1)


def test_a_loss_that_does_not_fall_makes_no_error():
    scaling = data_speed_ups(budgets_of(lambda size: {"adamw": {0: 3.0 + size / 1e6}}))
    assert scaling.curve.scale == 0.0
    assert dataclasses.asdict(scaling.speed_ups["adamw"][int(TOKENS[0])])["is_extrapolated"]


@pytest.mark.parametrize("n", [1, 2, 5, 8, 9])
def test_resamples_have_the_probabilities_of_drawing_with_replacement(n):
    drawn = resamples(n)
    assert drawn.indices.shape[1] == n
    assert drawn.weights.sum() == pytest.approx(1.0)
    values = np.arange(n) ** 2.0
    assert drawn.weights @ drawn.means(values) == pytest.approx(values.mean(), rel=0.02)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_the_interval_of_a_mean_is_students_own(n):
    values = np.random.default_rng(n).normal(size=n)
    drawn, own = resamples(n), estimate(values.tolist())
    low, high = drawn.interval(own.mean, drawn.means(values))
    assert (low, high) == pytest.approx((own.low, own.high))
    assert drawn.interval(own.mean, drawn.means(values), within=(own.mean, math.inf))[0] == own.mean
    assert resamples(1).interval(0.0, np.zeros(1)) is None
