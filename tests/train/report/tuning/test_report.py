"""The report of a tuning: what budgets are worth, who leads at which, and where a space ends."""

import csv
import dataclasses
import io
import itertools
import json
import math
import re
import shutil

import numpy as np
import pytest
from rich.console import Console

from tests.support import tiny
from tests.support.synthetic_comparison import final_record, run_record
from train.experiments.tuning import Tuning
from train.optimizers import AdamW, Lion, StratOpt
from train.optimizers.search_space import search_space
from train.records.lines import EvalRecord, RecordWriter
from train.report.tuning.report import tuning_report
from train.report.tuning.tables import (
    Edge,
    edges,
    expected_best,
    ranks,
    running_quartiles,
    search_curve,
)
from train.report.tuning.trials import load_results
from train.run.folder import write_config

BOTTOMS = {"adamw": -2.5, "lion": -1.2, "stratopt": -3.0}  # of the valleys, as log10 of the rate
START = 5.45
OPTIMIZERS = (AdamW(), Lion(), StratOpt())


def valley(optimizer, config):
    """A loss with its lowest point at one rate; far above it, the run diverges."""
    distance = math.log10(config.optimizer.learning_rate) - BOTTOMS[optimizer]
    return math.nan if distance > 0.9 else min(1.9 + 0.5 * distance**2, START)


def tuning_of(tmp_path, trials=16, optimizers=OPTIMIZERS):
    shared = tiny.run_config(tmp_path)
    fields = shared.terms
    return Tuning(spaces=tuple(map(search_space, optimizers)), trials=trials, **fields)


def write_trial(folder, optimizer, number, config, loss, **changes):
    """A trial that has ended, as `train` leaves it."""
    trial = folder / "trials" / optimizer / str(number)
    trial.mkdir(parents=True, exist_ok=True)
    write_config(trial / "config.json", config)
    run = run_record(optimizer, 1000, learning_rate=config.optimizer.learning_rate, **changes)
    start = EvalRecord(step=0, tokens=0, loss=START, bits_per_byte=1.0, seconds=0.0)
    with RecordWriter(trial / "records.jsonl") as writer:
        for record in (run, start, final_record(run, loss, diverged=not loss <= START)):
            writer.write(record)


def write_tuning(folder, tuning, loss_of=valley):
    folder.mkdir(exist_ok=True)
    write_config(folder / "tuning.json", tuning)
    for optimizer, configs in tuning.runs().items():
        for number, config in enumerate(configs):
            write_trial(folder, optimizer, number, config, loss_of(optimizer, config))
    return folder


def report(folder, **options):
    console = Console(file=io.StringIO(), width=100)
    path = tuning_report(folder, console=console, **options)
    return path, console.file.getvalue()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("tuning")
    folder = write_tuning(tmp_path / "t", tuning_of(tmp_path))
    path, terminal = report(folder)
    return folder, path.read_text(), terminal


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_the_expected_best_is_the_mean_over_all_choices_of_k_trials(n):
    losses = np.random.default_rng(n).normal(size=n)
    brute = [np.mean(list(map(min, itertools.combinations(losses, k)))) for k in range(1, n + 1)]
    np.testing.assert_allclose(expected_best(losses), brute)


def test_the_curve_is_the_mean_over_all_orders_that_begin_with_the_defaults():
    default, others = 3.0, [5.0, 2.5, 2.8, 4.0]
    orders = [np.minimum.accumulate([default, *o]) for o in itertools.permutations(others)]
    curve = search_curve(default, others)
    np.testing.assert_allclose(curve.expected, np.mean(orders, axis=0))
    assert curve.low[0] == curve.high[0] == default
    assert curve.low[-1] == curve.expected[-1] == 2.5 < curve.high[-1]
    assert (curve.low <= curve.expected).all()
    assert (curve.expected <= curve.high).all()


def test_a_single_trial_is_a_curve_of_one_point():
    assert [part.tolist() for part in dataclasses.astuple(search_curve(2.0, []))] == [[2.0]] * 3


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    many = np.array([min(draw) for draw in rng.normal(size=(20_000, 3))])
    hits = 0
    for number in range(100):
        losses = rng.normal(size=32)
        curve = search_curve(math.inf, losses.tolist(), seed=number)
        hits += curve.low[3] <= many.mean() <= curve.high[3]
    assert 85 <= hits <= 100


def test_equal_losses_share_the_better_rank():
    assert ranks({"a": 1.0, "b": math.inf, "c": 1.0, "d": 2.0}) == {"a": 1, "b": 4, "c": 1, "d": 3}


def test_quartiles_are_over_the_third_of_the_trials_around():
    rates = [10.0**power for power in (3, 1, 2, 6, 5, 4)]
    losses = [3.0, 1.0, 2.0, 6.0, 5.0, 4.0]
    rate, low, middle, high = running_quartiles(rates, losses)
    np.testing.assert_allclose(np.log10(rate), [1.5, 2.5, 3.5, 4.5, 5.5])
    np.testing.assert_allclose(middle, [1.5, 2.5, 3.5, 4.5, 5.5])
    np.testing.assert_allclose(high - low, 0.5)
    assert running_quartiles(rates[:5], losses[:5]) is None


def test_ranks_are_at_the_defaults_at_four_trials_and_at_all(whole):
    folder, page, terminal = whole
    rows = [json.loads(line) for line in (folder / "report" / "tables.jsonl").open()]
    by_name = {row["optimizer"].lower(): row for row in rows if row["table"] == "tuning_ranks"}
    assert set(by_name) == set(BOTTOMS)
    for row in by_name.values():
        losses = [row[key]["loss"] for key in ("n_1_defaults", "n_4", "n_16")]
        assert losses == sorted(losses, reverse=True)
    results = load_results(folder)
    for tuned in results.tuned:
        last = by_name[tuned.key]["n_16"]
        assert last["loss"] == min(trial.loss for trial in tuned.trials)
    # 3e-4 lies nearest to StratOpt's valley, and Lion's is beyond its space.
    assert by_name["stratopt"]["rank_1"] == 1
    assert by_name["lion"]["rank_1"] == 3
    for text in (page, " ".join(terminal.split())):
        assert "at the defaults and the papers’ rate StratOpt leads" in text


def test_a_best_on_the_edge_of_its_space_is_said_so(whole):
    folder, page, terminal = whole
    by_name = {tuned.key: tuned for tuned in load_results(folder).tuned}
    found = {edge.field: edge for edge in edges(by_name["lion"])}
    assert found["learning_rate"].side == "upper"
    sentence = "The best of lion lies at the upper edge of learning_rate"
    assert str(found["learning_rate"]).startswith(sentence)
    for text in (page, " ".join(terminal.split())):
        assert sentence in text
        assert "widen the space" in text
    assert "learning_rate" not in {edge.field for edge in edges(by_name["adamw"])}


def test_the_sentence_for_an_edge_names_the_value_the_range_and_the_way_out():
    edge = Edge("lion", "learning_rate", "upper", 0.0968, 1e-4, 1e-1)
    assert str(edge) == (
        "The best of lion lies at the upper edge of learning_rate (0.0968 in 0.0001 to 0.1): "
        "widen the space."
    )


def test_a_diverged_trial_is_counted_and_never_dropped(whole):
    folder, page, terminal = whole
    results = load_results(folder)
    diverged = {tuned.key: tuned.diverged for tuned in results.tuned}
    assert diverged["stratopt"]
    assert not diverged["lion"]
    for trial in diverged["stratopt"]:
        assert trial.loss == math.inf
        assert trial.gained == START
    count = f"{len(diverged['stratopt'])} of 16"
    assert f"{count} diverged" in page
    assert f"{count} of StratOpt" in " ".join(terminal.split())
    assert f"StratOpt, {len(diverged['stratopt'])} diverged" in page  # above its panel
    rows = list(csv.DictReader((folder / "report" / "trials.csv").open()))
    assert len(rows) == 48
    lost = [row for row in rows if row["diverged"] == "true"]
    assert len(lost) == sum(map(len, diverged.values()))
    assert {row["val_loss"] for row in lost} == {"inf"}


def test_an_optimizer_that_always_diverges_ranks_last_and_has_no_best(tmp_path):
    tuning = tuning_of(tmp_path, trials=3, optimizers=(AdamW(), Lion()))

    def loss_of(optimizer, config):
        return math.nan if optimizer == "lion" else 2.0

    path, terminal = report(write_tuning(tmp_path / "t", tuning, loss_of))
    assert "no trial with a usable loss" in terminal
    rows = [json.loads(line) for line in (path.parent / "tables.jsonl").open()]
    [lion] = [row for row in rows if row["optimizer"] == "Lion" and "n_3" in row]
    assert lion["n_3"] == {
        "trials": 3,
        "loss": START,
        "low": START,
        "high": START,
        "rank": 2,
    }


def test_a_tuning_under_way_ranks_at_the_trials_that_all_have(tmp_path):
    tuning = tuning_of(tmp_path, trials=6, optimizers=(AdamW(), Lion()))
    folder = write_tuning(tmp_path / "t", tuning)
    (folder / "trials" / "lion" / "5" / "records.jsonl").unlink()
    half_written = folder / "trials" / "adamw" / "4" / "records.jsonl"
    half_written.write_bytes(half_written.read_bytes()[:-9])
    results = load_results(folder)
    assert results.budget == 5
    path, terminal = report(folder)
    for text in (path.read_text(), " ".join(terminal.split())):
        assert "Of the 10 of 12 trials that have ended so far" in text
        assert "Lion: 5 of 6 trials have ended; ranks are at the 5 that all have" in text
        assert "adamw/4, step 0 of 200" in text
        assert "line 3: skipped a half-written record" in text


def test_an_optimizer_of_which_nothing_has_ended_is_left_out_of_the_ranks_and_named(tmp_path):
    folder = write_tuning(tmp_path / "t", tuning_of(tmp_path, trials=2))
    shutil.rmtree(folder / "trials" / "lion")
    path, terminal = report(folder)
    rows = [json.loads(line) for line in (path.parent / "tables.jsonl").open()]
    assert {row["optimizer"] for row in rows if "rank_1" in row} == {"AdamW", "StratOpt"}
    assert "Lion: 0 of 2 trials have ended" in " ".join(terminal.split())


def test_the_defaults_alone_are_a_report(tmp_path):
    tuning = tuning_of(tmp_path, trials=1)
    path, terminal = report(write_tuning(tmp_path / "t", tuning))
    assert "N = 1, defaults" in terminal
    assert path.exists()


def test_trials_of_other_data_are_refused_unless_asked(tmp_path):
    tuning = tuning_of(tmp_path, trials=2, optimizers=(AdamW(),))
    folder = write_tuning(tmp_path / "t", tuning)
    other = folder / "trials" / "adamw" / "1" / "records.jsonl"
    other.write_text(other.read_text().replace("9e107d9d372b", "000000000000"))
    with pytest.raises(ValueError, match=r"differ in data.*adamw/0.*adamw/1"):
        report(folder)
    report(folder, allow_mixed=True)


def test_a_folder_without_a_tuning_or_without_trials_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no tuning"):
        report(tmp_path)
    write_config(tmp_path / "tuning.json", tuning_of(tmp_path))
    with pytest.raises(ValueError, match="holds no trials yet"):
        report(tmp_path)


def test_the_page_stands_alone_and_shows_every_optimizer(whole):
    folder, page, terminal = whole
    assert "http" not in page
    assert "<script" not in page
    assert "prefers-color-scheme: dark" in page
    assert "#010203" not in page
    assert page.count("<svg") == 2 + 3
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for title in ("AdamW", "Lion", "StratOpt"):
        assert f'<th scope="row" class="text">{title}' in page
        assert f">{title}" in (folder / "report" / "figure2.svg").read_text()
    assert max(map(len, terminal.splitlines())) <= 100
    assert sorted(path.name for path in (folder / "report").iterdir()) == [
        "figure1.png", "figure1.svg", "figure2.png", "figure2.svg", "index.html", "tables.jsonl",
        "tables.md", "trials.csv",
    ]  # fmt: skip


def test_the_markdown_has_a_row_for_each_optimizer_and_as_many_cells_as_titles(whole):
    text = (whole[0] / "report" / "tables.md").read_text()
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert [len(lines) for lines in tables] == [2 + 3, 2 + 3]
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1
