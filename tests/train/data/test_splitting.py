"""Training and validation share no document, however the documents are stored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.data import write_documents
from train.data import DataConfig, DataError
from train.data.preparing.splitting import route_documents


def write_lines(path, texts):
    write_documents(path, texts)
    return f"jsonl:{path}"


def split(config):
    sides = {"train": [], "validation": [], None: []}
    for routed in route_documents(config):
        sides[routed.split].append(routed.document.text)
    return sides


TEXTS = [f"document {i}" for i in range(2000)]


def test_the_fraction_is_kept(tmp_path):
    sides = split(DataConfig(write_lines(tmp_path / "a", TEXTS), validation_fraction=0.1))
    assert 150 < len(sides["validation"]) < 250
    assert sides[None] == []
    assert sorted(sides["train"] + sides["validation"]) == sorted(TEXTS)


def test_a_larger_fraction_only_adds_to_validation(tmp_path):
    spec = write_lines(tmp_path / "a", TEXTS)
    small = split(DataConfig(spec, validation_fraction=0.1))
    large = split(DataConfig(spec, validation_fraction=0.2))
    assert set(small["validation"]) < set(large["validation"])


@given(texts=st.lists(st.sampled_from(["a", "b", "c", "d", "e", "ä"]), min_size=1, max_size=30))
def test_copies_of_a_document_fall_on_the_same_side(tmp_path_factory, texts):
    spec = write_lines(tmp_path_factory.mktemp("copies") / "a", texts)
    sides = split(DataConfig(spec, validation_fraction=0.5))
    assert not set(sides["train"]) & set(sides["validation"])
    assert len(sides["train"]) + len(sides["validation"]) == len(texts)


def test_the_side_does_not_depend_on_the_order_or_the_file(tmp_path):
    forwards = split(DataConfig(write_lines(tmp_path / "a", TEXTS), validation_fraction=0.1))
    backwards = split(DataConfig(write_lines(tmp_path / "b", TEXTS[::-1]), validation_fraction=0.1))
    assert set(forwards["validation"]) == set(backwards["validation"])


def test_a_validation_source_is_taken_whole_and_its_documents_do_not_train(tmp_path):
    config = DataConfig(
        write_lines(tmp_path / "train", ["a", "b", "held out", "c"]),
        validation_source=write_lines(tmp_path / "validation", ["held out", "other"]),
    )
    assert split(config) == {
        "train": ["a", "b", "c"],
        "validation": ["held out", "other"],
        None: ["held out"],
    }


def test_documents_without_text_are_left_out(tmp_path):
    config = DataConfig(
        write_lines(tmp_path / "train", ["a", "", " \n\t"]),
        validation_source=write_lines(tmp_path / "validation", ["", "b"]),
    )
    assert split(config) == {"train": ["a"], "validation": ["b"], None: ["", "", " \n\t"]}


def test_reading_can_stop_early(tmp_path):
    spec = write_lines(tmp_path / "a", TEXTS)
    sides = split(DataConfig(spec, max_documents=10, validation_fraction=0.5))
    assert sorted(sides["train"] + sides["validation"]) == sorted(TEXTS[:10])


def test_half_a_surrogate_pair_is_found(tmp_path):
    (tmp_path / "a").write_text('{"text": "fine"}\n{"text": "ab\\ud83d"}\n')
    with pytest.raises(DataError, match=r"a, line 2: character 2 is half of a surrogate pair"):
        split(DataConfig(f"jsonl:{tmp_path / 'a'}"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"validation_fraction": 0.0}, "validation_fraction is 0.0; it must lie between 0 and 1"),
        ({"validation_fraction": 1.0}, "or give a validation_source"),
        ({"max_documents": 0}, "max_documents is 0"),
        ({"shard_tokens": 0}, "shard_tokens is 0"),
    ],
)
def test_a_config_is_checked_when_it_is_made(fields, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**fields)
