"""The ladder's table: each rung beside the one that it changes, in the order of the ladder."""

import pytest

from tests.support.synthetic_comparison import final_record, run_record, values, write_run
from train.report.comparison import load
from train.report.ladder import against_baseline, ladder_table, rungs
from train.report.pairs import compare_all, holm
from train.report.statistics import estimate

# By rung: what it stands after, and its losses by seed.
RUNGS = {
    "adamw": ("", (2.0, 2.1, 2.2, 2.3)),
    "no clip": ("adamw", (2.05, 2.15, 2.25, 2.351)),
    "multipliers": ("no clip", (2.06, 2.11, 2.31, 2.30)),
    "aardvark": ("multipliers", (1.9, 2.0, 2.1, 2.201)),
}


def write_ladder(folder, rungs=RUNGS):
    for number, (name, (after, losses)) in enumerate(rungs.items()):
        for seed, loss in enumerate(losses):
            started = f"2026-01-0{1 + seed}T12:00:0{number}+00:00"
            run = run_record(name, seed, title=name.title(), after=after, started=started)
            write_run(folder, [run, final_record(run, loss)])
    return folder


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    return load(write_ladder(tmp_path_factory.mktemp("ladder")))


def differences(name, other):
    return [a - b for a, b in zip(RUNGS[name][1], RUNGS[other][1], strict=True)]


def test_rungs_stand_in_the_order_in_which_they_were_run_and_not_by_loss(ladder):
    assert [group.key for group in ladder_table(ladder).rows] == list(RUNGS)
    assert ladder.groups[0].key == "aardvark"


def test_a_change_is_the_difference_to_the_rung_before_paired_by_seed(ladder):
    rows = values(ladder_table(ladder))
    _, _, _, *adamw = rows["Adamw"].values()
    assert adamw == [None, None, None]
    for name in list(RUNGS)[1:]:
        before, row = RUNGS[name][0], rows[name.title()]
        assert row["rung_before"] == before.title()
        assert row["δ_to_it"] == estimate(differences(name, before))
        assert row["δ_to_adamw"].difference == estimate(differences(name, "adamw"))


def test_what_is_told_apart_from_adamw_is_corrected_for_the_rungs_and_bold(ladder):
    rows = against_baseline(ladder)
    corrected = holm([pair.p for pair in rows.values()])
    assert [pair.p_holm for pair in rows.values()] == pytest.approx(corrected)
    # Three pairs and not all six: a rung is tested against AdamW alone.
    everywhere = {frozenset((pair.first, pair.second)): pair for pair in compare_all(ladder.groups)}
    assert rows["no clip"].p_holm < everywhere[frozenset(("no clip", "adamw"))].p_holm
    shown = {cells[0].text: cells[-1] for cells in ladder_table(ladder).cells}
    assert [shown[name].is_strong for name in ("Adamw", "No Clip", "Multipliers", "Aardvark")] == [
        False, True, False, True,
    ]  # fmt: skip
    assert str(shown["Aardvark"]) == "−0.0998 ± 0.0008"


def test_a_diverged_rung_keeps_its_place_and_names_what_it_stands_after(tmp_path):
    folder = write_ladder(tmp_path, {name: RUNGS[name] for name in ("adamw", "no clip")})
    run = run_record("multipliers", 0, after="no clip", started="2026-01-01T12:00:05+00:00")
    write_run(folder, [run, final_record(run, float("nan"), diverged=True)])
    *_, cells = ladder_table(load(folder)).cells
    assert list(map(str, cells)) == ["multipliers 1 diverged", "0", "—", "No Clip", "—", "—"]


def test_a_comparison_of_optimizers_is_no_ladder(tmp_path):
    flat = {name: ("", losses) for name, (_, losses) in RUNGS.items()}
    comparison = load(write_ladder(tmp_path, flat))
    assert rungs(comparison) == []
    assert ladder_table(comparison).rows == ()
