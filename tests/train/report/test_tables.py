"""The tables' rows, the finding and the cautions say what the records say, and no more."""

import dataclasses
import json
import math
import shutil

import pytest

from tests.support.synthetic_comparison import (
    STEPS,
    cost_record,
    final_record,
    records,
    run_record,
    values,
    write_comparison,
    write_run,
)
from train.records.lines import RecordWriter, StepRecord
from train.report.comparison import load
from train.report.comparison_tables import norms_table, results_table
from train.report.pairs import pairs_table
from train.report.papers import papers_table
from train.report.statistics import estimate
from train.report.words import summarize

LOSSES = {"adamw": (2.0, 2.1, 2.2), "stratopt": (1.9, 2.01, 2.11), "lion": (2.05, 2.0, 2.3)}


def write_finals(folder, losses, **changes):
    """Runs that are nothing but their first and last line."""
    for optimizer, finals in losses.items():
        for seed, loss in enumerate(finals):
            run = run_record(optimizer, seed)
            write_run(folder, [run, final_record(run, loss, **changes)])
    return folder


def shown(table):
    """The table's cells as text, by the first column and the column's title."""
    titles = [column.title for column in table.columns]
    return {cells[0].text: dict(zip(titles, map(str, cells), strict=True)) for cells in table.cells}


def test_table_1_has_each_optimizers_mean_interval_and_paired_difference(tmp_path):
    table = results_table(load(write_finals(tmp_path, LOSSES)))
    assert [group.key for group in table.rows] == ["stratopt", "adamw", "lion"]  # the best first
    rows = {title.lower(): row for title, row in values(table).items()}
    for optimizer, losses in LOSSES.items():
        assert rows[optimizer]["val_loss"] == estimate(losses)
        assert rows[optimizer]["n"] == 3
    pairs = zip(LOSSES["stratopt"], LOSSES["adamw"], strict=True)
    assert rows["stratopt"]["δ_to_adamw"] == estimate([mine - theirs for mine, theirs in pairs])
    assert rows["adamw"]["δ_to_adamw"] is None
    assert shown(table)["AdamW"]["Val. loss"] == "2.1000 ± 0.2484"
    assert shown(table)["StratOpt"]["Δ to AdamW"] == "−0.0933 ± 0.0143"


def test_one_seed_shows_no_interval_and_says_so(tmp_path):
    table = results_table(load(write_finals(tmp_path, {"adamw": [2.0], "lion": [2.5]})))
    assert shown(table)["Lion"]["Val. loss"] == "2.5000 n = 1"
    assert shown(table)["Lion"]["Δ to AdamW"] == "+0.5000 n = 1"
    assert shown(table)["Lion"]["Device time"] == "80.0 s n = 1"


def test_costs_come_from_the_cost_sheet_and_are_dashes_where_it_has_none(tmp_path):
    folder = write_finals(tmp_path, {"adamw": [2.0], "lion": [2.5], "lamb": [2.6]}, peak_bytes=None)
    with RecordWriter(folder / "costs.jsonl") as writer:
        writer.write(cost_record("adamw", 1.0, 8.5))
        writer.write(cost_record("lion", 0.94, 4.0))
    rows = shown(results_table(load(folder)))
    assert rows["Lion"]["Step time"] == "0.94× 0.92–0.97"
    assert rows["Lion"]["Peak memory"] == "124 MB"
    assert rows["Lion"]["State"] == "4 B/p"
    assert rows["LAMB"]["Step time"] == rows["LAMB"]["Peak memory"] == "—"
    assert rows["LAMB"]["State"] == "8 B/p"  # as the run itself measured it


def test_step_times_that_were_not_taken_beside_adamws_are_no_ratios_to_it(tmp_path):
    folder = write_finals(tmp_path, {"lamb": [2.0], "lion": [2.5]})
    with RecordWriter(folder / "costs.jsonl") as writer:
        writer.write(cost_record("lion", 1.0, 4.0))
    row = shown(results_table(load(folder)))["Lion"]
    assert row["Step time"] == "—"
    assert row["State"] == "4 B/p"


def test_skipped_steps_are_added_up_over_the_runs(tmp_path):
    table = results_table(load(write_finals(tmp_path, {"adamw": [2.0, 2.1]}, skipped=3)))
    assert shown(table)["AdamW"]["Skipped"] == "6"


@pytest.mark.parametrize(("loss", "diverged"), [(9.0, True), (math.nan, False), (math.inf, True)])
def test_a_diverged_run_is_named_and_in_no_mean(tmp_path, loss, diverged):
    folder = write_finals(tmp_path, {"adamw": [2.0, 2.1], "lion": [1.0, 1.1]})
    run = run_record("lion", 2)
    write_run(folder, [run, final_record(run, loss, diverged=diverged)])
    comparison = load(folder)
    row = shown(results_table(comparison))["Lion"]
    assert row["Optimizer"] == "Lion 1 of 3 diverged"
    assert row["n"] == "2"
    assert row["Val. loss"].startswith("1.0500")
    # Its survivors' mean is the lowest, but an optimizer that diverges is not the best.
    assert [group.key for group in comparison.groups] == ["adamw", "lion"]
    summary = summarize(comparison)
    assert "AdamW" in summary.finding
    assert any("Lion diverged in 1 of 3 runs (seed 2)" in line for line in summary.cautions)


def test_an_optimizer_of_which_every_run_diverged_keeps_its_row(tmp_path):
    folder = write_finals(tmp_path, {"adamw": [2.0]})
    write_run(folder, records(run_record("lion", 0), diverges_at=50))
    row = shown(results_table(load(folder)))["Lion"]
    assert row["Optimizer"] == "Lion 1 of 1 diverged"
    assert row["Val. loss"] == row["Δ to AdamW"] == "—"


def run_with_head_norms(seed, last_norms):
    """A run whose last steps have these norms of the head, and whose earlier ones have 100."""
    first = STEPS - len(last_norms)
    for line in records(run_record("adamw", seed)):
        if isinstance(line, StepRecord):
            norm = last_norms[line.step - first - 1] if line.step > first else 100.0
            yield dataclasses.replace(line, grad_norms={"head": norm, "mlp": 1.0})
        else:
            yield line


def test_table_2_averages_the_last_twentieth_of_the_steps_and_then_the_seeds(tmp_path):
    write_run(tmp_path, run_with_head_norms(0, [1.0] * 9 + [2.0]))
    write_run(tmp_path, run_with_head_norms(1, [3.0] * 9 + [math.nan]))
    table = norms_table(load(tmp_path))
    assert table.rows[0].by_type["head"] == estimate([1.1, 3.0])
    assert shown(table)["AdamW"]["Head"] == "2.050 ± 1.344"
    assert shown(table)["AdamW"]["Embedding"] == "—"


def test_the_papers_numbers_stand_beside_ours_as_printed(tmp_path):
    table = norms_table(load(write_comparison(tmp_path, optimizers=["adamw"], seeds=1)))
    row = shown(table)["Aardvark paper"]
    assert [row[kind] for kind in ("Embedding", "Attention", "MLP", "Head", "Norm")] == [
        "0.47", "0.82", "0.65", "1.12", "—",
    ]  # fmt: skip
    assert table.printed_rows == 1
    printed = [[str(cell) for cell in cells] for cells in papers_table().cells]
    assert ["StratOpt", "StratOpt", "5.209", "—", "—", "—"] in printed
    assert ["Aardvark", "Lion", "6.114", "5.892", "18.2", "18.7 GB"] in printed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"fingerprint": "other"}}, "differ in data: .* in adamw-s0, .* in lion-s0"),
        ({"model": {"parameters": 7}}, "differ in model: .* 897152 parameters .* 7 parameters"),
        ({"steps": 7}, "differ in tokens: 200 steps"),
        ({"commit": "fffffff"}, "differ in commit: 3c2b1a0f9e8d in adamw-s0, fffffff in lion-s0"),
        ({"commit": "3c2b1a0f9e8d+"}, r"differ in commit: .* 3c2b1a0f9e8d\+ in lion-s0"),
    ],
)
def test_runs_of_different_conditions_are_refused_unless_asked_for(tmp_path, change, message):
    run = run_record("lion", 0)
    for name, value in change.items():
        inner = getattr(run, name)
        new = dataclasses.replace(inner, **value) if isinstance(value, dict) else value
        run = dataclasses.replace(run, **{name: new})
    write_finals(tmp_path, {"adamw": [2.0]})
    write_run(tmp_path, [run, final_record(run, 2.0)])
    with pytest.raises(ValueError, match=message):
        load(tmp_path)
    comparison = load(tmp_path, allow_mixed=True)
    assert len(comparison.groups) == 2
    assert any("2 different kinds" in line for line in summarize(comparison).cautions)


def test_one_optimizer_at_two_rates_is_refused(tmp_path):
    write_finals(tmp_path, {"adamw": [2.0]})
    run = run_record("adamw", 1, learning_rate=0.5)
    write_run(tmp_path, [run, final_record(run, 2.0)])
    with pytest.raises(ValueError, match=r"adamw's learning rate: 0\.003 in adamw-s0, 0\.5 in"):
        load(tmp_path)
    rows = shown(results_table(load(tmp_path, allow_mixed=True)))
    assert rows["AdamW"]["Rate"] == "0.003, 0.5"


def test_one_optimizer_with_two_settings_is_refused(tmp_path):
    for seed, decay in enumerate((0.1, 0.7)):
        settings = {"optimizer": {"kind": "AdamW", "weight_decay": decay}}
        run = run_record("adamw", seed, config=settings)
        write_run(tmp_path, [run, final_record(run, 2.0)])
    with pytest.raises(ValueError, match=r"adamw's settings: .*decay 0\.1 in .*decay 0\.7 in"):
        load(tmp_path)


@pytest.mark.parametrize("commit", ["3c2b1a0f9e8d+", "unknown"])
def test_code_that_is_in_no_commit_is_a_caution(tmp_path, commit):
    for seed in range(2):
        run = run_record("adamw", seed, commit=commit)
        write_run(tmp_path, [run, final_record(run, 2.0)])
    cautions = summarize(load(tmp_path)).cautions
    assert f"The runs of commit {commit} are of code that is in no commit." in cautions


def test_devices_and_versions_may_differ_and_are_a_caution(tmp_path):
    write_finals(tmp_path, {"adamw": [2.0]})
    run = run_record("adamw", 1, device="H100", versions={"jax": "0.12.0"})
    write_run(tmp_path, [run, final_record(run, 2.0)])
    cautions = summarize(load(tmp_path)).cautions
    for what in ("device", "versions"):
        assert f"The runs are of 2 different kinds in: {what}." in cautions


def test_two_runs_of_one_optimizer_and_seed_are_refused_even_if_mixed(tmp_path):
    write_finals(tmp_path, {"adamw": [2.0]})
    shutil.copytree(tmp_path / "runs" / "adamw-s0", tmp_path / "runs" / "again")
    with pytest.raises(
        ValueError, match=r"again/records\.jsonl, line 1\) are both adamw with seed 0"
    ):
        load(tmp_path, allow_mixed=True)


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no runs: expected runs/<optimizer>-s<seed>"):
        load(tmp_path)


def test_a_single_runs_folder_is_a_comparison_of_one(tmp_path):
    path = write_run(tmp_path, records(run_record("adamw", 0)))
    assert [run.record.name for run in load(path.parent).runs] == ["adamw-s0"]


def test_a_half_written_record_and_a_run_without_any_are_told(tmp_path):
    path = write_run(tmp_path, records(run_record("adamw", 0), last=20))
    with path.open("ab") as file:
        file.write(b'{"kind": "st')
    empty = tmp_path / "runs" / "lion-s0" / "records.jsonl"
    empty.parent.mkdir()
    empty.touch()
    cautions = summarize(load(tmp_path)).cautions
    assert any("adamw-s0/records.jsonl, line" in line for line in cautions)
    assert any("lion-s0" in line and "left out" in line for line in cautions)


def test_unfinished_runs_are_listed_with_how_far_they_are(tmp_path):
    write_run(tmp_path, records(run_record("adamw", 0), last=60))
    comparison = load(tmp_path)
    summary = summarize(comparison)
    assert summary.unfinished == ["adamw-s0, step 60 of 200"]
    assert summary.finding.startswith(
        "No run of 819k tokens has ended with a usable loss so far: 1"
    )
    assert results_table(comparison).rows == ()


def finding(folder, losses):
    return summarize(load(write_finals(folder, losses))).finding.replace("\N{NO-BREAK SPACE}", " ")


def test_the_finding_names_who_is_told_apart_from_the_best_and_who_is_not(tmp_path):
    assert finding(tmp_path, LOSSES) == (
        "After 819k tokens, StratOpt has the lowest validation loss, 2.0067 ± 0.2609 (n = 3 "
        "seeds); Lion is not told apart from it, AdamW is above it "
        "(at 5%, paired t-tests, Holm’s correction for 3 pairs)."
    )


def test_the_finding_says_no_more_than_the_table_of_all_pairs(tmp_path):
    # Alone, each is told apart from the best at 5 %, and among six pairs none is.
    noisy = {key: [2.2 + shift, 2.3, 2.4] for key, shift in {"lion": 0.02, "lamb": 0.03}.items()}
    losses = {"adamw": (2.0, 2.15, 2.2), **noisy, "stratopt": (2.3, 2.35, 2.5)}
    comparison = load(write_finals(tmp_path, losses))
    adamw = values(pairs_table(comparison))["AdamW"]
    said = summarize(comparison).finding
    for key in ("lion", "lamb", "stratopt"):
        pair = adamw[key]
        assert pair.p < 0.05
        assert not pair.told_apart
    assert "are not told apart from it (at 5%" in said
    assert "above it" not in said


def test_the_finding_says_where_a_lower_mean_is_only_that_of_easier_seeds(tmp_path):
    found = finding(tmp_path, {"adamw": [1.0, 1.2], "lion": [0.9, 1.101, 3.0]})
    assert "AdamW has the lowest validation loss" in found
    assert "Lion is below it on the seeds in common" in found


def test_the_finding_names_no_order_among_optimizers_that_diverge(tmp_path):
    write_run(tmp_path, records(run_record("lion", 1), diverges_at=20))
    found = finding(tmp_path, {"adamw": [2.0], "lion": [1.0]})
    assert found == "After 819k tokens, AdamW has the lowest validation loss, 2.0000 (n = 1 seed)."


def test_the_best_of_optimizers_that_all_diverge_is_not_told_without_it(tmp_path):
    write_run(tmp_path, records(run_record("lion", 2), diverges_at=20))
    found = finding(tmp_path, {"lion": [2.0, 2.2]})
    assert found.endswith("2.1000 ± 1.2706 (n = 2 seeds), though 1 of its 3 runs diverged.")


def test_the_finding_of_one_seed_claims_no_order(tmp_path):
    assert finding(tmp_path, {"adamw": [2.0], "lion": [2.5]}) == (
        "After 819k tokens, AdamW has the lowest validation loss, 2.0000 (n = 1 seed); Lion cannot "
        "be told from it (fewer than two seeds in common)."
    )


def test_the_finding_of_one_optimizer_is_its_loss(tmp_path):
    assert finding(tmp_path, {"lion": [2.0, 2.2]}) == (
        "After 819k tokens, Lion has a validation loss of 2.1000 ± 1.2706 (n = 2 seeds)."
    )


def test_a_small_tier_is_said_to_support_no_claim_at_the_papers_size(tmp_path):
    write_finals(tmp_path, {"adamw": [2.0]})
    summary = summarize(load(tmp_path))
    assert "897k parameters and 819k tokens" in summary.cautions[0]
    assert "no claim about 134M parameters" in summary.cautions[0]


def test_the_facts_stand_beside_the_numbers_and_a_second_commit_is_a_caution(tmp_path):
    write_finals(tmp_path, {"adamw": [2.0]})
    run = run_record("lion", 4, commit="fffffff")
    write_run(tmp_path, [run, final_record(run, 2.0)])
    summary = summarize(load(tmp_path, allow_mixed=True))
    assert " ".join(summary.facts) == "Data Model Tokens Seeds Device Versions Commit"
    assert summary.facts["Seeds"] == "0, 4"
    assert summary.facts["Commit"] == "3c2b1a0f9e8d; fffffff"
    assert "stdlib" in summary.facts["Data"]
    assert any("2 different kinds in: commit" in line for line in summary.cautions)


def test_table_rows_are_strict_json(tmp_path):
    write_finals(tmp_path, {"adamw": [2.0, 2.1]})
    (row,) = results_table(load(tmp_path)).json_rows()
    row = json.loads(json.dumps(row, allow_nan=False))
    assert row["table"] == "table1"
    assert row["val_loss"]["mean"] == pytest.approx(2.05)
    assert row["val_loss"]["n"] == 2
