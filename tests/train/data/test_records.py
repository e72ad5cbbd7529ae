"""JSON lines, parquet and the hub: one document a record, and the bad record is named."""

import dataclasses
import json

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.data import fails, refused, texts
from train.data import DataConfig, prepare
from train.data.preparing import encoding
from train.data.sources import open_source

# --- jsonl


def write_lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_json_lines_give_one_document_each(tmp_path):
    write_lines(tmp_path / "a.jsonl", {"text": "one", "id": 1}, {"text": "zwölf\nlines"})
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write("\n  \n" + json.dumps({"text": "last, without a line end"}))
    assert texts(f"jsonl:{tmp_path}") == ["one", "zwölf\nlines", "last, without a line end"]


def test_a_byte_order_mark_is_no_json(tmp_path):
    """Where files with one were joined, it stands within."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\xef\xbb\xbf{"text": "b"}\r\n')
    assert texts(f"jsonl:{path}") == ["a", "b"]
    path.write_bytes(path.read_bytes() + b'\xef\xbb\xbf{"text": "\xff"}')
    assert fails(f"jsonl:{path}", "not UTF-8").offset == 49


def test_the_field_of_a_json_line_can_be_named(tmp_path):
    write_lines(tmp_path / "a.jsonl", {"content": "one", "text": 3})
    assert texts(f"jsonl:{tmp_path}", "content") == ["one"]


@pytest.mark.parametrize(
    ("line", "fragment"),
    [
        (b'{"text": "cut off', "not a line of JSON"),
        (b'{"content": "x", "id": 1}', "only 'content', 'id'; set text_column"),
        (b'{"text": null}', "no text in the field 'text'"),
        (b'["text"]', "no text in the field 'text'"),
    ],
)
def test_a_bad_json_line_is_found(tmp_path, line, fragment):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b"\n")
    assert fails(f"jsonl:{path}", str(path), fragment).offset == 17


def test_a_json_line_that_is_not_utf8_is_found_to_the_byte(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n{"text": "\xff"}\n')
    assert fails(f"jsonl:{path}", "not UTF-8").offset == 17 + 10


# --- parquet


FINEWEB = {"id": ["<urn:1>", "<urn:2>", "<urn:3>"], "dump": ["CC-MAIN-2023-14"] * 3}


def write_parquet(path, column="text", values=("one", "zwölf", None), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({column: pa.array(values), **FINEWEB}), path, **options)


def test_parquet_gives_one_document_a_row(tmp_path):
    write_parquet(tmp_path / "b.parquet", row_group_size=1)
    write_parquet(tmp_path / "a.parquet", values=pa.array(["x", "y", "z"], pa.large_string()))
    assert texts(f"parquet:{tmp_path}") == ["x", "y", "z", "one", "zwölf", ""]


def test_row_groups_and_reading_blocks_lose_no_row(tmp_path):
    rows = [f"row {i}" for i in range(1000)]
    pq.write_table(pa.table({"text": rows}), tmp_path / "a.parquet", row_group_size=300)
    documents = open_source(f"parquet:{tmp_path}").documents()
    assert [document.text for document in documents] == rows


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path):
    write_parquet(tmp_path / "a.parquet", column="content")
    fails(f"parquet:{tmp_path}", "a.parquet", "no column 'text', only 'content', 'id', 'dump'")
    assert texts(f"parquet:{tmp_path}", "content") == ["one", "zwölf", ""]


def test_names_of_columns_and_fields_are_shown_as_text_and_not_all(tmp_path):
    names = {f"\x1b[{i}m": ["x"] for i in range(1000)}
    pq.write_table(pa.table(names), tmp_path / "a.parquet")
    write_lines(tmp_path / "a.jsonl", names)
    for kind in ("parquet", "jsonl"):
        message = str(fails(f"{kind}:{tmp_path}", r"only '\x1b[0m', '\x1b[1m'"))
        assert message.isprintable()
        assert len(message) < 500 + len(str(tmp_path))


def test_a_column_of_numbers_is_refused(tmp_path):
    write_parquet(tmp_path / "a.parquet", values=(1, 2, 3))
    fails(f"parquet:{tmp_path}", "column 'text' holds int64, not text")


def test_a_file_that_is_not_parquet_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    fails(f"parquet:{path}", f"{path}: cannot be read as parquet")


def test_a_row_that_is_not_utf8_is_found(tmp_path):
    path = tmp_path / "a.parquet"
    raw = pa.array([b"fine", b"\xff", b"fine"]).view(pa.string())
    pq.write_table(pa.table({"text": raw}), path)
    assert fails(f"parquet:{path}", f"{path}, row 1:", "not UTF-8").offset == 1


# --- the hub, played by a local folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A data set of two samples; the calls to the hub are recorded."""
    for name, values in (("10BT/001", ("a", "b", "c")), ("10BT/000", ("d", "e", "f"))):
        write_parquet(tmp_path / "sample" / f"{name}.parquet", values=values)
    write_parquet(tmp_path / "sample" / "100BT" / "000.parquet", values=("g", "h", "i"))
    calls = []

    def list_repo_files(repository, *, revision, repo_type):
        calls.append((repository, revision, repo_type))
        files = tmp_path.rglob("*.parquet")
        return ["README.md", *(str(path.relative_to(tmp_path)) for path in files)]

    def hf_hub_download(repository, name, *, revision, repo_type):
        calls.append((repository, revision, repo_type, name))
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "list_repo_files", list_repo_files)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return calls


def test_the_hub_is_read_file_by_file_in_order(hub):
    spec = "hf:HuggingFaceFW/fineweb@abc123:sample/10BT/*.parquet"
    documents = open_source(spec).documents()
    assert next(documents).text == "d"
    assert hub == [
        ("HuggingFaceFW/fineweb", "abc123", "dataset"),
        ("HuggingFaceFW/fineweb", "abc123", "dataset", "sample/10BT/000.parquet"),
    ]
    assert [document.text for document in documents] == ["e", "f", "a", "b", "c"]


def test_without_a_pattern_the_whole_data_set_is_read_from_main(hub):
    assert len(texts("hf:owner/small")) == 9
    assert hub[0] == ("owner/small", "main", "dataset")


def test_a_huge_data_set_is_not_fetched_by_accident(hub, monkeypatch):
    names = [f"data/{i}.parquet" for i in range(65)]
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda *_, **__: names)
    fails("hf:owner/huge", "65 parquet files", "hf:owner/huge@main:data/*")
    assert hub == []


def test_a_pattern_without_files_is_refused(hub):
    fails("hf:owner/name:sample/1BT/*", "no parquet file that matches 'sample/1BT/*'")


def test_a_hub_that_cannot_be_reached_is_an_error_of_the_data(hub, monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    fails("hf:owner/name", "hf:owner/name@main cannot be read (Name or service not known)")
    monkeypatch.setattr(huggingface_hub, "list_repo_files", offline)
    fails("hf:owner/name", "check the name, the revision, the network")


def hub_config(tmp_path):
    return DataConfig("hf:owner/name", validation_fraction=0.5, cache_dir=str(tmp_path / "cache"))


def test_what_was_read_before_the_hub_was_gone_is_not_read_again(hub, tmp_path, monkeypatch):
    download, config = huggingface_hub.hf_hub_download, hub_config(tmp_path)

    def offline(repository, name, **terms):
        if name == "sample/10BT/001.parquet":
            raise ConnectionError("Name or service not known")
        return download(repository, name, **terms)

    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub, "hf_hub_download", offline)
        refused(lambda: prepare(config, workers=1), "Name or service not known")
    del hub[:]
    manifest = prepare(config, workers=1)
    assert [call[3] for call in hub[1:]] == ["sample/10BT/001.parquet"]
    assert manifest.train.documents + manifest.validation.documents == 9


def test_a_branch_that_has_moved_on_meanwhile_gives_no_file_twice(hub, tmp_path, monkeypatch):
    """The parts of a first try are known by what they are of, not by their number alone."""
    config = hub_config(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(encoding, "_join", None)
        with pytest.raises(TypeError):
            prepare(config, workers=1)
    write_parquet(tmp_path / "sample" / "00" / "new.parquet", values=("j", "k", "l"))
    manifest = prepare(config, workers=1)
    assert (
        manifest.fingerprint
        == prepare(
            dataclasses.replace(config, cache_dir=str(tmp_path / "other")), workers=1
        ).fingerprint
    )
    assert manifest.train.documents + manifest.validation.documents == 12


@pytest.mark.parametrize("spec", ["hf:fineweb", "hf:a/b/c", "hf:/b"])
def test_a_repository_has_an_owner_and_a_name(spec):
    fails(spec, repr(spec), "hf:OWNER/NAME")
