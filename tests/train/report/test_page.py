"""The page, the figures and the terminal: complete, self-contained, and safe to open."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from tests.support.synthetic_comparison import (
    TITLES,
    records,
    run_record,
    write_comparison,
    write_run,
)
from train.records.files import pack
from train.report.comparison_report import report

EVIL = "<script>alert(1)</script>"


def printed(folder, **options):
    console = Console(file=io.StringIO(), width=100)
    path = report(folder, console=console, **options)
    return path, console.file.getvalue()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Seven optimizers and three more: one diverged, one unfinished, one with an evil title."""
    folder = write_comparison(tmp_path_factory.mktemp("whole"), seeds=2)
    write_run(folder, records(run_record("lion", 2), diverges_at=100))
    write_run(folder, records(run_record("aardvark", 2), last=120))
    write_run(folder, records(run_record("evil", 0, title=EVIL, device="$x_1$ [bold]& <b>")))
    (folder / "comparison.json").write_text(json.dumps({"note": "</pre><script>"}))
    path, terminal = printed(folder)
    return path.parent, path.read_text(), terminal


class _Elements(HTMLParser):
    """Collects start tags with their attributes, and fails on one that is not closed in turn."""

    void = frozenset({"meta", "br", "hr", "img", "link", "path", "use", "rect"})

    def __init__(self, page):
        super().__init__()
        self.seen, self._open = [], []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in self.void:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in self.void:
            assert self._open.pop() == tag


def test_every_tag_is_closed_in_turn_and_every_id_is_the_only_one(whole):
    elements = _Elements(whole[1]).seen
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids)) > 10
    targets = re.findall(r'(?:href="|url\()#([^")]+)', whole[1])
    assert set(targets) <= set(ids)


def test_the_page_asks_for_nothing_from_outside(whole):
    elements = _Elements(whole[1]).seen
    assert "http" not in whole[1]
    assert "@import" not in whole[1]
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in elements}
    for _, attributes in elements:
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")


def test_no_string_of_a_record_becomes_markup(whole):
    folder, page, terminal = whole
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;/pre&gt;&lt;script&gt;" in page
    assert "&lt;b&gt;" in page
    assert "<script" not in (folder / "figure1.svg").read_text()
    assert EVIL in terminal
    assert "$x_1$ [bold]& <b>" in terminal


def test_a_title_is_drawn_as_it_is_and_not_as_mathematics(tmp_path):
    write_run(tmp_path, records(run_record("odd", 0, title="$\\frac$ _x_$\n\x07")))
    path, _ = printed(tmp_path)
    page = path.read_text()
    assert "$\\frac$ _x_$</text>" in page


@pytest.mark.parametrize("title", list(TITLES.values()))
def test_each_optimizer_is_in_each_figure_and_in_the_tables(whole, title):
    folder, page, terminal = whole
    for name in ("figure1.svg", "figure2.svg"):
        assert f">{title}</text>" in (folder / name).read_text()
    assert f'<th scope="row" class="text">{title}' in page
    assert terminal.count(title) >= 4


def test_the_figures_take_the_pages_colours_and_carry_a_description(whole):
    _, page, _ = whole
    pictures = [attributes for tag, attributes in _Elements(page).seen if tag == "svg"]
    assert len(pictures) == 6
    assert all(picture["role"] == "img" and picture["aria-label"] for picture in pictures)
    assert "currentColor" in page
    assert "#010203" not in page
    assert "DejaVu" not in page


def test_the_page_fits_a_phone_and_both_colour_schemes(whole):
    _, page, _ = whole
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert "prefers-color-scheme: dark" in page
    tables = page.count("<table>")
    assert tables == 5
    assert len(re.findall(r'<div class="scroll"[^>]*>\s*<table>', page)) == tables


def test_the_page_says_what_happened_to_every_run(whole):
    _, page, terminal = whole
    for text in (page, terminal):
        assert "1 of 3 diverged" in text
        assert "aardvark-s2, step 120 of 200" in text
        assert "supports no claim about 134M" in " ".join(text.split())


def test_every_measured_column_says_how(whole):
    _, page, _ = whole
    assert page.count("<abbr title=") == 11 + 1  # Table 1's, and Table 4's speed-up
    assert page.count("<dt>") == 11 + 7  # and the seven facts


def test_the_files_beside_the_page(whole):
    folder, _, _ = whole
    assert sorted(path.name for path in folder.iterdir()) == [
        "figure1.png", "figure1.svg", "figure2.png", "figure2.svg", "index.html", "tables.jsonl",
        "tables.md",
    ]  # fmt: skip
    assert (folder / "figure1.png").read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line) for line in (folder / "tables.jsonl").read_text().splitlines()]
    assert [row["table"] for row in rows] == [
        *["table1"] * 8, *["table2"] * 9, *["table3"] * 8, *["table4"] * 8, *["papers"] * 6,
    ]  # fmt: skip


def test_the_terminal_keeps_to_a_hundred_columns(whole):
    lines = whole[2].splitlines()
    assert max(map(len, lines)) <= 100
    assert any("Aardvark" in line and "±" in line for line in lines)
    assert "…" not in whole[2]


def test_without_costs_there_is_no_cost_figure(tmp_path):
    path, terminal = printed(write_comparison(tmp_path, optimizers=["lion"], seeds=1, costs=False))
    assert not (path.parent / "figure2.svg").exists()
    assert "Figure 2" not in path.read_text()
    assert "n = 1" in terminal


def test_without_adamw_the_end_of_training_is_shown_large(tmp_path):
    folder = write_comparison(tmp_path, optimizers=["lion", "lamb"], seeds=1, costs=False)
    page = report(folder, console=Console(file=io.StringIO())).read_text()
    assert "Validation loss, last third" in page
    assert "same seed</text>" not in page


@pytest.mark.parametrize("last", [0, 1, 120])
def test_a_comparison_that_has_just_begun_is_reported(tmp_path, last):
    write_run(tmp_path, records(run_record("adamw", 0), last=last))
    path, terminal = printed(tmp_path, out=tmp_path / "elsewhere")
    assert path == tmp_path / "elsewhere" / "index.html"
    assert f"adamw-s0, step {last} of 200" in terminal
    assert "Losses and costs" not in path.read_text()


def test_a_run_that_diverged_alone_is_reported(tmp_path):
    write_run(tmp_path, records(run_record("adamw", 0), diverges_at=2))
    path, _ = printed(tmp_path)
    assert "1 of 1 diverged" in path.read_text()


def test_the_same_records_give_the_same_page(tmp_path):
    folder = write_comparison(tmp_path, optimizers=["adamw", "lion"], seeds=1)
    first, second = (
        report(folder, out=tmp_path / name, console=Console(file=io.StringIO())).read_bytes()
        for name in ("a", "b")
    )
    assert first == second


def test_files_of_runs_are_reported_together_and_not_into_their_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for optimizer in ("adamw", "lion"):
        folder = write_comparison(
            tmp_path / optimizer, optimizers=[optimizer], seeds=1, costs=False
        )
        pack(folder, tmp_path / "packed" / f"{optimizer}.jsonl")
    files = [Path("packed/adamw.jsonl"), Path("packed/lion.jsonl")]
    path = report(*files, console=Console(file=io.StringIO()))
    assert path == Path("runs/report-adamw-lion/index.html")
    assert "Lion cannot be told from it" in path.read_text()
    assert len(list(Path("packed").iterdir())) == 2


def test_a_folder_without_runs_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="holds no runs"):
        report(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
