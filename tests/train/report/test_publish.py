"""The results on pages are made from the records, and nothing else of a page is touched."""

import pytest

from tests.support import ROOT
from tests.support.synthetic_comparison import final_record, run_record, write_comparison
from tests.support.synthetic_study import write_papers_rate
from tests.train.report.tuning.test_report import tuning_of, write_tuning
from train.optimizers import AdamW, Lion
from train.records.files import pack
from train.records.lines import RecordError, encode
from train.report.comparison import load
from train.report.publish import (
    MISSING,
    OF_COMPARISON,
    OF_STUDY,
    OF_TUNING,
    Sections,
    outdated,
    publish,
)


@pytest.fixture
def pages(tmp_path):
    """A repository with results and two pages about them."""
    folder = write_comparison(tmp_path / "runs", optimizers=("adamw", "lion"), seeds=2)
    pack(folder, tmp_path / "results" / "nano.jsonl")
    (tmp_path / "docs").mkdir()
    section = "<!-- results:{} -->\n<!-- /results -->\n"
    (tmp_path / "README.md").write_text(f"Before.\n\n{section.format('nano/summary')}\nAfter.\n")
    (tmp_path / "docs" / "page.md").write_text(section.format("study/tuning/ranks"))
    return tmp_path


def test_what_stands_between_the_marks_is_made_and_the_rest_stays(pages):
    assert publish(pages) == [pages / "README.md", pages / "docs" / "page.md"]
    text = (pages / "README.md").read_text()
    assert text.startswith("Before.\n\n<!-- results:nano/summary -->\n**Losses and costs.** ")
    assert text.endswith("Records: `results/nano.jsonl`.\n<!-- /results -->\n\nAfter.\n")
    (adamw,) = (one for one in load(pages / "runs").groups if one.key == "adamw")
    assert f"| AdamW | 2 | {sum(adamw.losses.values()) / 2:.4f} ±\N{NO-BREAK SPACE}" in text
    assert publish(pages) == []


def test_beside_every_table_stands_what_its_numbers_are_about(pages):
    sections = Sections(pages / "results")
    for what in OF_COMPARISON:
        text = sections[f"nano/{what}"]
        for said in ("stdlib", "897k parameters", "819k a run", "(n = 2)", "3c2b1a0f9e8d", "EPYC"):
            assert said in text


def test_where_an_optimizer_lacks_a_seed_n_is_no_more_than_a_bound(pages):
    results = pages / "results" / "nano.jsonl"
    lost = run_record("lion", 2)
    diverged = final_record(lost, 9.0, diverged=True)
    results.write_bytes(results.read_bytes() + encode(lost) + encode(diverged))
    text = Sections(pages / "results")["nano/losses"]
    assert "Seeds: 0, 1, 2 (n ≤ 3)" in text
    assert "| Lion 1 of 3 diverged | 2 |" in text


def test_a_tuning_has_its_tables(tmp_path):
    folder = write_tuning(tmp_path / "t", tuning_of(tmp_path, 12, (AdamW(), Lion())))
    pack(folder, tmp_path / "tuning.jsonl")
    sections = Sections(tmp_path)
    assert "| N = 12 |" in sections["tuning/ranks"]
    for what in OF_TUNING:
        assert "Seeds: 1000 (n = 1)" in sections[f"tuning/{what}"]


def test_a_study_has_its_tables_and_none_where_it_has_no_part_for_them(tmp_path):
    write_papers_rate(tmp_path / "study", seeds=3)
    sections = Sections(tmp_path)
    text = sections["study/orders"]
    assert "| 3e-4, stdlib, 897k parameters, 1.64M tokens | 3 |" in text
    assert f"Records: `{tmp_path.name}/study/*.jsonl`." in text
    for what in set(OF_STUDY) - {"orders"}:
        assert sections[f"study/{what}"] == MISSING


def test_a_study_of_which_a_part_cannot_be_read_is_refused(tmp_path):
    part = write_papers_rate(tmp_path / "study", seeds=1)
    part.write_bytes(b"no record\n" + part.read_bytes())
    with pytest.raises(RecordError, match=r"papers-rate\.jsonl, line 1"):
        Sections(tmp_path)["study/orders"]


def test_what_is_told_apart_is_in_bold(tmp_path):
    folder = write_comparison(
        tmp_path / "runs",
        optimizers=("adamw", "lion"),
        seeds=4,
        offset_of={"adamw": 0.0, "lion": 0.5}.get,
    )
    pack(folder, tmp_path / "c.jsonl")
    (row,) = (
        line for line in Sections(tmp_path)["c/pairs"].splitlines() if line.startswith("| AdamW")
    )
    assert row.startswith("| AdamW | a | — | **−0.")


def test_results_that_are_not_there_yet_are_said_so_and_no_error(pages):
    publish(pages)
    assert MISSING in (pages / "docs" / "page.md").read_text()


def test_a_page_is_out_of_date_when_its_records_change(pages):
    publish(pages)
    results = pages / "results" / "nano.jsonl"
    run = run_record("adamw", 2)
    results.write_bytes(results.read_bytes() + encode(run) + encode(final_record(run, 2.0)))
    assert list(outdated(pages)) == [pages / "README.md"]


@pytest.mark.parametrize("name", ["nano/lossses", "losses", "nano"])
def test_a_section_that_there_is_not_is_refused_with_those_that_there_are(pages, name):
    with pytest.raises(ValueError, match=rf"results:{name} is no section: .*finding, summary, "):
        Sections(pages / "results")[name]


def test_the_pages_in_the_repository_are_up_to_date():
    assert not outdated(ROOT), "`python -m train publish` makes them from results/"
