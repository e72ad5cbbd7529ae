"""Who is told apart from whom, and who is sooner where AdamW ends: against brute force."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tests.support.synthetic_comparison import (
    OFFSETS,
    records,
    run_record,
    values,
    write_comparison,
    write_run,
)
from train.records.lines import EvalRecord
from train.report.comparison import load
from train.report.pairs import Pair, compare_all, holm, indistinguishable, pairs_table
from train.report.statistics import Estimate
from train.report.targets import first_reach, targets_table

probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return load(write_comparison(tmp_path_factory.mktemp("five"), seeds=5))


@given(probabilities)
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values):
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for rank, index in enumerate(np.argsort(p_values, kind="stable")):
            if p_values[index] > level / (len(p_values) - rank):
                break
            rejected.add(int(index))
        corrected = holm(p_values)
        # Where p is the threshold itself, rounding may decide either way.
        for index, p in enumerate(corrected):
            assert (p <= level) == (index in rejected) or p == pytest.approx(level)


def test_a_pair_is_tested_over_the_seeds_that_both_have(comparison):
    pairs = {(pair.first, pair.second): pair for pair in compare_all(comparison.groups)}
    assert len(pairs) == 21
    losses = {group.key: list(group.losses.values()) for group in comparison.groups}
    for (first, second), pair in pairs.items():
        test = scipy.stats.ttest_rel(losses[first], losses[second])
        assert pair.p == pytest.approx(test.pvalue)
        assert pair.p <= pair.p_holm <= 21 * pair.p
        assert pair.difference.n == 5


def test_one_seed_in_common_tells_nothing_apart(tmp_path):
    folder = write_comparison(tmp_path, optimizers=("adamw", "lion"), seeds=1, costs=False)
    (pair,) = compare_all(load(folder).groups)
    assert (pair.p, pair.told_apart) == (None, False)


def pair(first, second, apart):
    return Pair(first, second, Estimate(5, 0.1, 0.1, 0.1), 0.5, 0.001 if apart else 0.5)


@given(st.integers(1, 6), st.data())
def test_sets_are_the_largest_of_which_no_two_are_told_apart(size, data):
    keys = "abcdef"[:size]
    pairs = [pair(*two, data.draw(st.booleans())) for two in itertools.combinations(keys, 2)]
    apart = {(pair.first, pair.second) for pair in pairs if pair.told_apart}
    sets = indistinguishable(keys, pairs)
    assert set("".join(itertools.chain(*sets))) == set(keys)
    for members in sets:
        assert not apart & set(itertools.combinations(members, 2))
        for other in set(keys) - set(members):
            assert any(tuple(sorted((other, member))) in apart for member in members)


def test_equals_share_a_letter_and_the_better_one_is_another(tmp_path):
    folder = write_comparison(
        tmp_path, optimizers=("adamw", "lion", "lamb"), seeds=5, costs=False,
        offset_of={"adamw": 0.0, "lion": 0.5, "lamb": 0.5}.__getitem__,
    )  # fmt: skip
    rows = values(pairs_table(load(folder)))
    assert {title: row["set"] for title, row in rows.items()} == {
        "AdamW": "a",
        "Lion": "b",
        "LAMB": "b",
    }
    assert rows["Lion"]["lion"] is None
    against = rows["Lion"]["adamw"]
    assert against.told_apart
    assert against.difference.mean == -rows["AdamW"]["lion"].difference.mean > 0.4


def test_a_diverged_seed_is_named_beside_the_optimizer(tmp_path):
    folder = write_comparison(tmp_path, optimizers=("adamw", "lion"), seeds=3, costs=False)
    write_run(folder, records(run_record("lion", 3), diverges_at=100))
    cells = {cells[0].text: cells[0].detail for cells in pairs_table(load(folder)).cells}
    assert cells == {"AdamW": "", "Lion": "1 diverged"}


@pytest.mark.parametrize(("offset", "told_apart"), [(-0.5, False), (0.5, True)])
def test_a_win_over_the_seeds_that_are_left_is_none_and_a_loss_is_one(tmp_path, offset, told_apart):
    for seed in range(5):
        write_run(tmp_path, records(run_record("adamw", seed)))
        diverges_at = 100 if seed == 4 else None
        lion = records(run_record("lion", seed), offset=offset, diverges_at=diverges_at)
        write_run(tmp_path, lion)
    (pair,) = compare_all(load(tmp_path).groups)
    assert pair.difference.n == 4
    assert pair.told_apart == told_apart


def test_eighty_optimizers_are_sorted_into_sets_too():
    keys = [f"{number:02}" for number in range(80)]
    pairs = [
        pair(*two, apart=abs(int(two[0]) - int(two[1])) > 40)
        for two in itertools.combinations(keys, 2)
    ]
    sets = indistinguishable(keys, pairs)
    assert sets == [tuple(keys[first : first + 41]) for first in range(40)]


def test_a_target_is_met_on_the_line_between_two_evaluations(comparison):
    run = comparison.runs[0]
    steps = [line.step for line in run.evals]
    losses = [line.loss for line in run.evals]
    between = (losses[3] + losses[4]) / 2
    assert first_reach(run, between, steps) == pytest.approx((steps[3] + steps[4]) / 2)
    assert first_reach(run, losses[0] + 1, steps) == steps[0]
    assert first_reach(run, min(losses) - 1, steps) is None
    broken = dataclasses.replace(run.evals[3], loss=math.nan)
    broken_run = dataclasses.replace(run, evals=(*run.evals[:3], broken, *run.evals[4:]))
    assert first_reach(broken_run, between, steps) == steps[4]


def test_who_is_better_is_sooner_where_adamw_ends(comparison):
    rows = {row.title.lower(): row for row in targets_table(comparison).rows}
    assert rows["adamw"].speed_up == Estimate(5, 0.0, 0.0, 0.0)
    assert rows["adamw"].steps.mean == 200
    for optimizer, row in rows.items():
        if OFFSETS[optimizer] < -0.02:
            assert row.reached == 5
            assert row.speed_up.mean > 0
            assert row.tokens.mean == pytest.approx(row.steps.mean * 16 * 256)
        if OFFSETS[optimizer] > 0.1:
            assert (row.reached, row.steps, row.speed_up) == (0, None, None)


def test_the_seconds_are_of_steps_timed_in_turn_where_they_were(tmp_path):
    timed = load(write_comparison(tmp_path / "timed", optimizers=("adamw",), seeds=2))
    alone = load(write_comparison(tmp_path / "alone", optimizers=("adamw",), seeds=2, costs=False))
    cost = timed.baseline.cost
    assert targets_table(timed).rows[0].seconds.mean == 200 * cost.step_seconds
    clocks = [run.evals[-1].seconds for run in alone.runs]
    assert targets_table(alone).rows[0].seconds.mean == pytest.approx(sum(clocks) / 2)


def test_a_diverged_run_does_not_reach_its_target_and_counts(tmp_path):
    folder = write_comparison(tmp_path, optimizers=("adamw",), seeds=2, costs=False)
    for seed in range(2):
        run = records(run_record("lion", seed), offset=-0.1, diverges_at=50 if seed else None)
        write_run(folder, run)
    rows = {row.title: row for row in targets_table(load(folder)).rows}
    assert (rows["Lion"].reached, rows["Lion"].runs) == (1, 2)


def test_a_run_that_met_its_target_and_then_diverged_has_not_reached_it(tmp_path):
    write_run(tmp_path, records(run_record("adamw", 0)))
    write_run(tmp_path, records(run_record("lion", 0), offset=-2.0, diverges_at=190))
    rows = {row.title: row for row in targets_table(load(tmp_path)).rows}
    assert (rows["Lion"].reached, rows["Lion"].runs, rows["Lion"].speed_up) == (0, 1, None)


def test_where_adamw_ends_no_better_than_it_began_nobody_is_sooner(tmp_path):
    """As at a rate that is much too high: every run meets such a target before its first step."""
    for optimizer in ("adamw", "lion"):
        run, *lines = records(run_record(optimizer, 0))
        evals = [line for line in lines if isinstance(line, EvalRecord)]
        start = dataclasses.replace(evals[0], step=0, tokens=0, loss=lines[-1].val_loss)
        write_run(tmp_path, [run, start, *evals[1:], lines[-1]])
    rows = targets_table(load(tmp_path)).rows
    assert [(row.reached, row.steps.mean, row.speed_up) for row in rows] == [(1, 0, None)] * 2


def test_without_adamw_there_is_no_target(tmp_path):
    folder = write_comparison(tmp_path, optimizers=("lion",), seeds=2, costs=False)
    assert targets_table(load(folder)).rows == ()
