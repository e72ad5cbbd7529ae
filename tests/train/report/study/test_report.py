"""The report of a study: what it finds in a folder, what it says of it, and the page."""

import html
import io
import json
import math
import re

import pytest
from rich.console import Console

from tests.support.synthetic_comparison import records, run_record, write_run
from tests.support.synthetic_study import (
    AT_3E4,
    RATES,
    WORTH,
    final_losses,
    tuned_loss,
    write_budgets,
    write_papers_rate,
    write_part,
    write_rates,
    write_study,
)
from train.report.comparison import load
from train.report.pairs import holm
from train.report.study.papers_order import PAPERS_ORDER
from train.report.study.parts import is_study, read_study, study_of
from train.report.study.report import describe, study_report
from train.report.study.results import compute

EVIL = "<script>alert(1)</script>"
ORDER = "AdamW < Aardvark < StratOpt < AdEMAMix < Lion"


def report(folder, **options):
    console = Console(file=io.StringIO(), width=100)
    path = study_report(folder, console=console, **options)
    return path, console.file.getvalue()


def results_of(folder):
    return compute(read_study(folder))


def verdicts(test):
    return {str(one): one.verdict for one in test.neighbours}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study with all of its parts, and what a folder holds besides."""
    folder = write_study(tmp_path_factory.mktemp("study"))
    ablation = {(f"Aardvark at {rate}", 0): 2.0 for rate in (1e-3, 2e-3)} | {("AdamW", 0): 2.1}
    write_part(folder / "ladder.jsonl", ablation, steps=400)
    write_part(folder / "tuning.jsonl", {("Lion", 1000): 0.1, ("AdamW", 1000): 0.2}, steps=400)
    (folder / "tuning.json").write_text("{}")
    path, terminal = report(folder)
    return path.parent, path.read_text(), terminal


@pytest.fixture(scope="module")
def results(whole):
    return results_of(whole[0].parent)


def test_the_papers_order_is_by_the_losses_that_they_print():
    assert " < ".join(PAPERS_ORDER) == ORDER


def test_parts_are_known_by_their_records_and_not_by_their_names(results):
    study = results.study
    assert [str(contest.conditions) for contest in study.contests] == [
        "tuned, stdlib, 897k parameters, 410k tokens",
        "tuned, stdlib, 897k parameters, 819k tokens",
        "tuned, stdlib, 897k parameters, 1.64M tokens",
        "tuned, stdlib, 897k parameters, 3.28M tokens",
        "tuned, webmix, 897k parameters, 1.64M tokens",
        "tuned, stdlib, 3.4M parameters, 1.64M tokens",
        "3e-4, stdlib, 897k parameters, 1.64M tokens",
    ]
    assert {sweep.title for sweep in study.sweeps} == set(WORTH)
    assert all(len(sweep.groups) == len(RATES) for sweep in study.sweeps)
    assert study.notices == ()


def test_the_order_holds_at_3e_4_and_is_reversed_when_tuned(whole, results):
    papers, tuned = results.headline
    assert set(verdicts(papers).values()) == {"holds"}
    assert verdicts(tuned) == {
        "AdamW < Aardvark": "reversed",
        "Aardvark < StratOpt": "reversed",
        "StratOpt < AdEMAMix": "reversed",
        "AdEMAMix < Lion": "holds",
    }
    said = (
        f"tokens, n = 5 seeds), the papers’ order {ORDER} holds throughout. Tuned (stdlib, 897k "
        "parameters, 1.64M tokens, n = 5 seeds), it holds for AdEMAMix < Lion and is reversed for "
        "AdamW < Aardvark, Aardvark < StratOpt and StratOpt < AdEMAMix; of the 15 pairs"
    )
    assert said in html.unescape(whole[1])
    assert said in " ".join(whole[2].split())


def test_the_difference_is_the_worse_ones_loss_minus_the_better_ones(results):
    first = results.headline[0].neighbours[0]
    assert first.pair.difference.mean == pytest.approx(
        AT_3E4["Aardvark"] - AT_3E4["AdamW"], abs=0.02
    )
    assert first.pair.difference.n == 5


def test_verdicts_are_corrected_for_the_neighbours_of_the_order(tmp_path):
    losses = final_losses(AT_3E4.__getitem__, range(5), part=1)
    for seed, gap in enumerate((0.01, 0.03, 0.05, 0.02, 0.005)):
        losses["Aardvark", seed] = losses["AdamW", seed] + gap
        losses["StratOpt", seed] = losses["Aardvark", seed] + gap
    write_part(tmp_path / "a.jsonl", losses, lambda _: 3e-4)
    [test] = results_of(tmp_path).headline
    p_values = [one.pair.p for one in test.neighbours]
    assert max(p_values) < 0.05  # each by itself
    assert [one.pair.p_holm for one in test.neighbours] == holm(p_values)
    expected = ["not told apart", "not told apart", "holds", "holds"]
    assert [one.verdict for one in test.neighbours] == expected
    assert "undecided for AdamW < Aardvark and Aardvark < StratOpt" in test.outcome


def test_who_is_missing_or_diverged_is_said(tmp_path):
    losses = final_losses(AT_3E4.__getitem__, range(3), part=1)
    losses = {key: loss for key, loss in losses.items() if key[0] != "StratOpt"}
    losses["Lion", 1] = math.nan
    write_part(tmp_path / "papers.jsonl", losses, lambda _: 3e-4)
    results = results_of(tmp_path)
    [test] = results.headline
    assert verdicts(test)["AdamW < Aardvark"] == "holds"
    assert verdicts(test)["Aardvark < StratOpt"] == "no pair"
    assert test.neighbours[-1].diverged == 1
    words = describe(results)
    assert (
        "has no pair of finished runs for Aardvark < StratOpt and StratOpt < AdEMAMix"
        in words.finding
    )
    assert any("Lion diverged in 1 of 3 runs (3e-4, stdlib" in line for line in words.cautions)


def test_how_far_3e_4_is_from_the_best_rate(results):
    curves = {curve.sweep.title: curve for curve in results.curves}
    adamw = curves["AdamW"]
    assert adamw.best_rate == 3e-3
    assert adamw.factor == pytest.approx(10.0)
    assert adamw.lost.mean == pytest.approx(0.6)
    assert adamw.lost.n == 2
    assert all(curve.is_bottom_inside for curve in results.curves)


def test_a_bottom_outside_of_the_grid_is_said_loudly(tmp_path):
    write_rates(tmp_path, rates=[rate for rate in RATES if rate <= 3e-3])
    results = results_of(tmp_path)
    outside = {curve.sweep.title for curve in results.curves if not curve.is_bottom_inside}
    assert outside == {"AdamW", "Aardvark", "Muon"}
    caution = describe(results).cautions[0]
    assert caution.startswith("CALIBRATION FAILS for Aardvark, AdamW and Muon")
    assert "Widen the grid" in caution


def test_a_rate_at_which_a_run_diverged_is_not_the_best(tmp_path):
    losses = {
        (f"AdamW at {rate}", seed): loss
        for rate, loss in ((1e-3, 2.0), (3e-3, 1.5), (1e-2, 2.5))
        for seed in range(2)
    }
    losses["AdamW at 0.003", 1] = math.nan
    write_part(tmp_path / "rates.jsonl", losses)
    [curve] = results_of(tmp_path).curves
    assert curve.best_rate == 1e-3
    assert not curve.is_bottom_inside
    assert curve.papers is None


def test_two_budgets_give_no_speed_up_and_a_sentence(tmp_path):
    write_budgets(tmp_path, steps=(100, 200))
    results = results_of(tmp_path)
    assert results.scalings == ()
    assert any(
        "No effective-data speed-up for tuned, stdlib, 897k parameters (2 budgets)" in line
        for line in describe(results).cautions
    )


def test_the_speed_up_that_was_put_in_is_found(whole, results):
    [(_, scaling)] = results.scalings
    for title, worth in WORTH.items():
        one = scaling.speed_ups[title.lower()][3_276_800]
        assert one.factor == pytest.approx(worth, rel=0.03)
        assert one.low <= worth <= one.high
    assert "Muon makes the most of data: 3.28M tokens" in " ".join(whole[2].split())


def test_a_curve_that_does_not_fit_is_said(tmp_path):
    for steps, loss in ((100, 3.0), (200, 2.9), (400, 2.5), (800, 1.7)):
        losses = {(name, seed): loss + 0.01 * seed for name in ("AdamW", "Lion") for seed in (0, 1)}
        write_part(tmp_path / f"{steps}.jsonl", losses, steps=steps)
    [caution] = [line for line in describe(results_of(tmp_path)).cautions if "misses" in line]
    assert "the law does not hold over these budgets" in caution


def test_of_two_parts_under_the_same_conditions_the_larger_counts(tmp_path):
    for name, seeds in (("a", 2), ("b", 4), ("c", 3)):
        losses = final_losses(lambda title: tuned_loss(title, 1e6), range(seeds), part=1)
        write_part(tmp_path / f"{name}.jsonl", losses)
    [contest] = read_study(tmp_path).contests
    assert len(contest.comparison.runs) == 4 * len(WORTH)


@pytest.mark.parametrize(("after", "sweeps"), [("", 1), ("adamw", 0)])
def test_rungs_of_a_ladder_at_several_rates_are_no_sweep_over_rates(tmp_path, after, sweeps):
    for rate in (3e-3, 4e-3, 5e-3):
        config = {"optimizer": {"kind": "AdamW", "learning_rate": rate}}
        changes = {"learning_rate": rate, "config": config, "after": after if rate > 3e-3 else ""}
        write_run(tmp_path, records(run_record(f"adamw-{rate}", 0, **changes)))
    assert len(study_of([load(tmp_path)]).sweeps) == sweeps


def test_a_part_that_cannot_be_read_is_named_and_the_others_are_reported(tmp_path):
    write_papers_rate(tmp_path)
    whole = (tmp_path / "papers-rate.jsonl").read_text()
    (tmp_path / "mixed.jsonl").write_text(whole.replace("9e107d9d372b", "000000000000", 1))
    study = read_study(tmp_path)
    assert len(study.contests) == 1
    assert study.notices[0].startswith("mixed.jsonl is left out: the runs differ in data")
    assert read_study(tmp_path, allow_mixed=True).notices == ()


def test_a_folder_without_a_study_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="holds no study: expected comparisons"):
        study_report(tmp_path, out=tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_folders_of_runs_without_configurations_are_parts_and_their_strings_no_markup(tmp_path):
    part = tmp_path / "other people's"
    write_run(part, records(run_record("adamw", 0, title=EVIL, learning_rate=3e-4)))
    write_run(part, records(run_record("aardvark", 0, learning_rate=3e-4)))
    write_run(part, records(run_record("aardvark", 1, learning_rate=3e-4), last=120))
    path, terminal = report(tmp_path, out=tmp_path / "elsewhere")
    page = path.read_text()
    assert "aardvark-s1, step 120 of 200" in page
    assert "n = 1" in terminal
    assert "&lt;script&gt;" in page
    assert "<script" not in page + (tmp_path / "elsewhere" / "order.svg").read_text()


def test_the_page_stands_alone_and_shows_every_optimizer(whole):
    folder, page, terminal = whole
    assert "http" not in page
    assert "<script" not in page
    assert "prefers-color-scheme: dark" in page
    assert "#010203" not in page
    assert page.count("<svg") == 2 + len(WORTH) + 2
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)
    for title in WORTH:
        assert page.count(f'<th scope="row" class="text">{title}') == (2 if title != "AdamW" else 1)
        for name in ("order", "rates", "speed_up"):
            assert f">{title}</text>" in (folder / f"{name}.svg").read_text()
    assert max(map(len, terminal.splitlines())) <= 100
    assert "…" not in terminal


def test_the_files_beside_the_page(whole):
    folder = whole[0]
    assert sorted(path.name for path in folder.iterdir()) == [
        "index.html", "order.png", "order.svg", "rates.png", "rates.svg", "speed_up.png",
        "speed_up.svg", "tables.jsonl", "tables.md",
    ]  # fmt: skip
    rows = [json.loads(line) for line in (folder / "tables.jsonl").read_text().splitlines()]
    count = {
        table: sum(row["table"] == table for row in rows)
        for table in {row["table"] for row in rows}
    }
    assert count == {
        "papers_order": 7,
        "table_rates": len(WORTH),
        "rank_agreement": 6 + 1 + 1 + 1,
        "data_speed_up": len(WORTH) - 1,  # all but AdamW
        "loss_curve": 1,
    }
    tables = [
        block for block in (folder / "tables.md").read_text().split("\n\n") if block[0] == "|"
    ]
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_a_folder_is_a_study_where_an_optimizer_is_under_several_conditions(tmp_path):
    assert is_study(write_study(tmp_path / "study"))
    (tmp_path / "one").mkdir()
    write_papers_rate(tmp_path / "one")
    assert not is_study(tmp_path / "one")
    assert not is_study(tmp_path / "one" / "papers-rate.jsonl")
    assert not is_study(tmp_path / "nothing")
