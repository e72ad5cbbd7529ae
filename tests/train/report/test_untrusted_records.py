"""Records of strangers: whatever their strings say, pages, tables and terminals show it as text."""

import dataclasses
import io
import json
import re
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from tests.support.synthetic_comparison import cost_record, records, run_record, write_run
from tests.support.synthetic_study import write_study
from tests.train.report.tuning.test_report import tuning_of, write_tuning
from train.cli import train
from train.cli.main import main
from train.cli.progress import RunDisplay
from train.config.comparison import Contestant
from train.optimizers import AdamW
from train.records.files import pack
from train.records.kinds import MeshCost
from train.records.lines import RecordWriter, RunRecord, encode, read_records
from train.report.comparison_report import report
from train.report.publish import OF_STUDY, publish
from train.report.study.report import study_report
from train.report.table import Cell, Column, Table, markdown
from train.report.terminal import print_table
from train.report.tuning.report import tuning_report
from train.run.folder import held

pytestmark = pytest.mark.faults

EVIL = " ".join(
    [
        "<script>alert(1)</script>",
        '" onmouseover="alert(1)" x=\'',
        "</style></title><marquee>",
        "</text></svg><img src=x>",
        "<a href='javascript:alert(1)'>",
        "{{ 7 * 7 }}",
        "&lt;b&gt;",
        "--><!-- x",
        "]]>",
        "../../x",
    ]
)
"""No page of ours has elements or attributes of these kinds."""
HARMLESS = re.sub(r"[^a-z0-9]", "x", EVIL)


def filled(value: Any, text: str, names: Iterable[str] = ()) -> Any:
    """A record with the text in each of its strings, those of its parts and their keys too."""
    if isinstance(value, str):
        return f"{value} {text}"
    if isinstance(value, dict):
        return {f"{key} {text}": filled(item, text) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (field.name for field in dataclasses.fields(value))
        changed = {n: filled(getattr(value, n), text) for n in fields if n not in names}
        return dataclasses.replace(value, **changed)
    return value


def write(folder: Path, text: str) -> Path:
    """A comparison of three optimizers with costs, every string of whose records holds the text."""
    folder.mkdir()
    mesh = MeshCost(
        mesh="fsdp=8", devices=8, parameter_bytes=1, state_bytes=1, collective_bytes={"x": 1}
    )
    with RecordWriter(folder / "costs.jsonl") as writer:
        for name in ("adamw", "lion", "stratopt"):
            for seed in range(2):
                run = filled(run_record(name, seed), text, names=("name",))
                lines = [filled(line, text) for line in records(run)]
                write_run(folder, [run, *lines[1:]])
            cost = dataclasses.replace(cost_record(name, 1.1, 8.0), mesh=mesh, mesh_reason="why")
            writer.write(filled(cost, text))
    return folder


class Parts(HTMLParser):
    """What a page is made of: kinds of elements with the names of their attributes, and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.kinds: set[tuple[str, ...]] = set()
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.kinds.add((tag, *(name for name, _ in attributes)))

    def handle_comment(self, data: str) -> None:
        self.kinds.add(("a comment", data))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def assert_nothing_is_born(make: Callable[..., Path], evil: Path, plain: Path) -> None:
    """A page of evil strings has the parts of one of harmless strings, and so have its figures."""
    console = Console(file=io.StringIO(), width=100)
    made, other = (
        Parts(make(folder, console=console, out=folder / "out").read_text())
        for folder in (evil, plain)
    )
    assert made.kinds == other.kinds
    assert EVIL in "".join(made.text)
    assert names(evil) == names(plain)
    for figure in (evil / "out").glob("*.svg"):
        ElementTree.parse(figure)
        theirs = Parts((plain / "out" / figure.name).read_text())
        assert Parts(figure.read_text()).kinds == theirs.kinds


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.slow
def test_no_element_and_no_attribute_of_a_comparisons_page_is_born_from_a_record(
    tmp_path: Path,
) -> None:
    folders = write(tmp_path / "evil", EVIL), write(tmp_path / "plain", HARMLESS)
    assert_nothing_is_born(report, *folders)


KEPT = ("name", "optimizer", "after", "config")
"""By these a study knows what is what."""


def rewritten(folder: Path, text: str) -> Path:
    """A folder of packed records with the text in its other strings, and in optimizers' kinds."""
    for path in folder.glob("*.jsonl"):
        lines = [filled(line, text, names=KEPT) for line in read_records(path)]
        for line in lines:
            if isinstance(line, RunRecord):
                line.config["optimizer"]["kind"] += f" {text}"
        path.write_bytes(b"".join(map(encode, lines)))
    return folder


@pytest.mark.slow
def test_no_element_and_no_attribute_of_a_studys_page_is_born_from_a_record(
    tmp_path: Path,
) -> None:
    folders = []
    for name, text in (("evil", EVIL), ("plain", HARMLESS)):
        (tmp_path / name).mkdir()
        folders.append(rewritten(write_study(tmp_path / name), text))
    assert_nothing_is_born(study_report, *folders)


def strange_tuning(folder: Path, cache: Path, text: str) -> Path:
    """A tuning of optimizers whose names hold the text, as its description and its records say."""
    write_tuning(folder, tuning_of(cache, trials=4))
    description = json.loads((folder / "tuning.json").read_text())
    for space in description["spaces"]:
        space["optimizer"]["kind"] += f" {text}"
    (folder / "tuning.json").write_text(json.dumps(description))
    for path in folder.glob("trials/*/*/records.jsonl"):
        lines = [filled(line, text, names=("config",)) for line in read_records(path)]
        named = dataclasses.replace(lines[0], optimizer=lines[0].optimizer.lower())
        path.write_bytes(b"".join(map(encode, [named, *lines[1:]])))
    return folder


@pytest.mark.slow
def test_no_element_and_no_attribute_of_a_tunings_page_is_born_from_a_record(
    tmp_path: Path,
) -> None:
    folders = [
        strange_tuning(tmp_path / name, tmp_path / "cache", text)
        for name, text in (("evil", EVIL), ("plain", HARMLESS))
    ]
    assert_nothing_is_born(tuning_report, *folders)


TABLE = Table(
    "key", "Title", "Caption.",
    (Column(EVIL, Cell, is_text=True), Column("[red]loss[/]", Cell)),
    (EVIL, "[/bold] \x1b[31mred\x1b]0;title\x07 \x9b2J", "two\nlines | and a bar",
     "a_b AdamW < Lion"),
)  # fmt: skip


def test_a_row_of_markdown_is_one_line_without_markup() -> None:
    lines = markdown(TABLE).splitlines()
    assert len(lines) == 2 + 2 + len(TABLE.rows)
    unescaped = r"(?<!\\)(?:\\\\)*"
    for line in lines[2:]:
        assert len(re.findall(unescaped + r"\|", line)) == 3
        assert not re.search(unescaped + r"(<[a-z/!]|`|\[|\]|\*)", line)
    assert "a_b AdamW < Lion" in lines[-1]


MARKUP = "<img src=x> [a](b) **c** <!-- /results --> \n\n# d"


@pytest.mark.slow
def test_published_pages_and_tables_of_a_study_hold_no_markup_of_a_record(tmp_path: Path) -> None:
    """Not in cells alone: captions and sentences name data, models and optimizers as well."""
    results = tmp_path / "results"
    results.mkdir()
    pack(write(tmp_path / "runs", MARKUP), results / "few.jsonl")
    (results / "study").mkdir()
    rewritten(write_study(results / "study"), MARKUP)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(
        "".join(
            f"<!-- results:{name} -->\n<!-- /results -->\nbetween\n"
            for name in (
                "few/finding",
                "few/losses",
                "few/pairs",
                *(f"study/{x}" for x in OF_STUDY),
            )
        )
    )
    publish(tmp_path)
    study_report(results / "study", out=tmp_path / "out", console=Console(file=io.StringIO()))
    assert publish(tmp_path) == []
    for page in (tmp_path / "README.md", tmp_path / "out" / "tables.md"):
        text = page.read_text()
        assert "img src=x" in text
        assert not re.search(r"(?<!\\)<img|(?<!\\)\]\(b|(?<!\\)\*\*c|^# d", text, re.MULTILINE)


def test_the_terminal_shows_markup_as_text_and_obeys_no_codes() -> None:
    console = Console(file=io.StringIO(), width=400, force_terminal=False)
    print_table(console, TABLE)
    shown = console.file.getvalue()
    assert "[red]loss[/]" in shown
    assert "[/bold] \N{REPLACEMENT CHARACTER}[31mred" in shown
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)


def test_a_command_that_does_not_exist_is_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["[/red]"])
    assert "there is no command '[/red]'" in capsys.readouterr().err


def test_names_of_folders_are_shown_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    *_, final = records(run_record("adamw", 0))
    monkeypatch.setattr(train, "train", lambda *_, **__: final)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    main(["run", "nano", "--out", "[red]x"])
    assert "[red]x: validation loss" in capsys.readouterr().out
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None)
    with RunDisplay(console, 1) as display:
        display.run_started("[red]x")
        display.run_found("[bold]y", 1, final)
    shown = console.file.getvalue()
    assert "[red]x" in shown
    assert "✓ [bold]y" in shown


def test_errors_and_problems_obey_no_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = run_record("adamw", 0, name="\x1b[2Jx")
    (tmp_path / "many.jsonl").write_bytes(b"".join(map(encode, [run, run])))
    for words in (["report", "\x1b[2Jx"], ["check", "many.jsonl"]):
        with pytest.raises(SystemExit):
            main(words)
        shown = "".join(capsys.readouterr())
        assert "\N{REPLACEMENT CHARACTER}[2Jx" in shown
        assert "\x1b[2J" not in shown


# Names.


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("../../x", "x"), ("/etc/passwd", "etc-passwd"), ("a\x00b", "a-b"), ("a/../b", "a-..-b"),
        ("Ünder", "nder"), ("C:\\x", "c-x"), ("-rf", "rf"), ("..x..", "x"), ("a\nb", "a-b"),
    ],
)  # fmt: skip
def test_a_title_names_a_folder_in_its_place(title: str, name: str) -> None:
    assert Contestant(AdamW(), title).name == name


@pytest.mark.parametrize("title", ["..", "/", "\x00", "日本語", "x" * 101])
def test_a_title_that_can_name_no_folder_is_refused(title: str) -> None:
    with pytest.raises(ValueError, match=r"the title .* is not allowed: it names a folder"):
        Contestant(AdamW(), title)


def test_packed_records_are_one_file_whatever_their_runs_are_called(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    path = tmp_path / "runs" / "a" / "records.jsonl"
    with RecordWriter(path) as writer:
        for line in records(run_record("adamw", 0, name="../../../x\x00")):
            writer.write(line)
    before = names(tmp_path)
    pack(tmp_path, tmp_path / "packed.jsonl")
    assert names(tmp_path) == sorted([*before, "packed.jsonl"])


def test_a_run_writes_through_no_link_out_of_its_folder(tmp_path: Path) -> None:
    outside = tmp_path / "precious"
    outside.write_text("mine")
    for name in ("records.jsonl", "config.json", ".lock", "tensorboard"):
        folder = tmp_path / f"run-{name}"
        folder.mkdir()
        (folder / name).symlink_to(outside)
        with pytest.raises(ValueError, match=f"{name} is a symbolic link"), held(folder):
            pass
    assert outside.read_text() == "mine"
