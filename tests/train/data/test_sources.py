"""Every source reads documents in a fixed order, and says plainly what is wrong with a file."""

import errno
import io
import itertools
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.data import fails, texts
from train.data.sources import SOURCE_FORMS, builtin, files, open_source


@pytest.fixture(scope="module")
def library():
    return list(open_source("stdlib").documents())


# --- stdlib


def test_the_standard_library_is_about_two_megabytes_of_text(library):
    size = sum(len(document.text.encode()) for document in library)
    assert 1_500_000 < size < 3_000_000
    assert len(library) > 500


def test_the_standard_library_repeats_no_paragraph(library):
    paragraphs = [
        " ".join(paragraph.split())
        for document in library
        for paragraph in builtin._BLANK_LINES.split(document.text)
    ]
    assert len(paragraphs) == len(set(paragraphs))


def test_the_standard_library_holds_the_reference_and_docstrings_but_no_tests(library):
    names = {document.name for document in library}
    assert "topic assert" in names
    assert "docstrings of json/decoder.py" in names
    assert not any("of test/" in name or "site-packages" in name for name in names)


def test_the_standard_library_is_read_without_importing_it(library):
    assert any(document.name == "docstrings of turtle.py" for document in library)
    assert "turtle" not in sys.modules


def test_the_standard_library_reads_the_same_twice(library):
    again = itertools.islice(open_source("stdlib").documents(), 200)
    assert list(again) == library[:200]


def test_a_python_without_its_sources_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(builtin.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    fails("stdlib", str(tmp_path), "without the source files", "text:PATH")


# --- synthetic


def test_synthetic_text_never_changes():
    first = texts("synthetic")
    assert first == texts("synthetic:0")
    assert first != texts("synthetic:1")
    assert len(first) == 512
    assert first[0].startswith("suva za gudula pile dipu volupa za gudula")


def test_a_synthetic_word_has_at_most_four_followers():
    followers = {}
    for text in texts("synthetic"):
        words = text.removesuffix(".\n").split()
        for word, follower in itertools.pairwise(words):
            followers.setdefault(word, set()).add(follower)
    # Two of the 64 words may be spelt alike, and then they share their followers.
    assert sum(len(found) <= 4 for found in followers.values()) > 0.8 * len(followers)


def test_a_synthetic_seed_must_be_a_number():
    fails("synthetic:x", "'synthetic:x'", "whole number")


# --- text


def test_a_short_text_file_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_text("Grüße,\r\nWelt\n", encoding="utf-8", newline="")
    assert texts(f"text:{tmp_path / 'a.txt'}") == ["Grüße,\r\nWelt\n"]


def test_a_folder_and_a_glob_are_read_in_order(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "a.txt", "sub/c.txt", "d.md"):
        (tmp_path / name).write_text(name)
    assert texts(f"text:{tmp_path}") == ["a.txt", "b.txt", "sub/c.txt"]
    assert texts(f"text:{tmp_path}/?.*") == ["a.txt", "b.txt", "d.md"]
    assert texts(f"text:{tmp_path}/**/c.txt") == ["sub/c.txt"]


def test_a_file_whose_name_looks_like_a_glob_is_found(tmp_path):
    (tmp_path / "a[1].txt").write_text("bracketed")
    assert texts(f"text:{tmp_path}/a[1].txt") == ["bracketed"]


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello\xef\xbb\xbf")
    assert texts(f"text:{tmp_path}") == ["hello\ufeff"]


def test_a_book_is_cut_at_blank_lines(tmp_path):
    book = "\n\n".join(f"{i} " + "word " * 40 for i in range(200))
    (tmp_path / "book.txt").write_text(book)
    documents = texts(f"text:{tmp_path}")
    assert "".join(documents) == book
    assert len(documents) > 20
    assert all(document.endswith("\n\n") for document in documents[:-1])
    assert all(1024 <= len(document) < 1600 for document in documents[:-1])


def test_a_line_without_end_is_cut_all_the_same(tmp_path):
    (tmp_path / "line.txt").write_text("x" * 3_000_000)
    documents = texts(f"text:{tmp_path}")
    assert "".join(documents) == "x" * 3_000_000
    assert max(map(len, documents)) <= 8 * 3_000_000 // 256


@settings(max_examples=300)
@given(
    text=st.text(alphabet="ab \n\r\t€😀", max_size=300),
    length=st.integers(1, 20),
    block=st.integers(1, 30),
)
def test_the_cuts_lose_nothing_and_do_not_depend_on_the_blocks(text, length, block):
    blocks = [text[i : i + block] for i in range(0, len(text), block)]
    documents = list(files._cut(iter(blocks), length))
    assert "".join(documents) == text
    assert documents == list(files._cut(iter([text]), length))
    assert all(documents)


@pytest.mark.parametrize("lead", [0, 10, (1 << 20) - 1, (1 << 20), 1_500_000])
@pytest.mark.parametrize("bad", [b"\xff rest", b"\xe2\x82", b"\xc3("])
def test_text_that_is_not_utf8_is_found_to_the_byte(tmp_path, lead, bad):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"a" * lead + bad)
    error = fails(f"text:{path}", f"{path}, byte {lead}:", "not UTF-8", "iconv")
    assert (error.path, error.offset) == (path, lead)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "full.txt").write_text("text")
    (tmp_path / "none.txt").touch()
    fails(f"text:{tmp_path}", f"{tmp_path / 'none.txt'}: this file is empty")


def test_a_path_that_leads_nowhere_is_refused(tmp_path):
    fails(f"text:{tmp_path}/nothing.txt", "nothing.txt", "no such file or folder")
    fails(f"text:{tmp_path}", "no *.txt file in this folder")


@pytest.mark.parametrize("spec", ["", "stdlib:x", "text", "text:", "csv:data.csv", "webtext"])
def test_an_unknown_source_is_refused_with_those_that_are_known(spec):
    fails(spec, repr(spec), *SOURCE_FORMS)


# --- what the system cannot read


class Broken(io.BytesIO):
    """A file on a disk with a bad block at its end."""

    def read(self, size=-1):
        return super().read(size) or self._fail()

    def __next__(self):
        return self.readline() or self._fail()

    def _fail(self):
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_a_bad_block_is_told_of_the_file_that_has_it(tmp_path, monkeypatch, kind):
    path = tmp_path / "documents"
    path.write_bytes(content := b'{"text": "a"}\n')
    monkeypatch.setattr(Path, "open", lambda *_: Broken(content))
    fails(f"{kind}:{path}", f"{path}: cannot be read (Input/output error)")


def test_a_folder_that_cannot_be_searched_is_not_passed_over(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    for name in ("a.txt", "closed/b.txt"):
        (tmp_path / name).write_text("text")
    scandir = os.scandir

    def refuse(place):
        if Path(place).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    fails(f"text:{tmp_path}", f"{tmp_path / 'closed'}: cannot be read (Permission denied)")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_name_that_no_file_can_have_is_of_none(name):
    fails(f"text:{name}", "no such file or folder")


def test_a_file_that_a_glob_finds_twice_is_read_once(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.txt").write_text("once")
    assert texts(f"text:{tmp_path}/**/**/c.txt") == ["once"]
