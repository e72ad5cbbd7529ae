"""Damage in a prepared folder is found before training starts, and never repaired in silence."""

import dataclasses
import os
import shutil

import pytest

from tests.data_helpers import opening_fails, small_config
from train.data import DataError, open_dataset, prepare
from train.data.preparation import prepared_folder


@pytest.fixture
def config(tmp_path):
    return small_config(tmp_path)


def touch_byte(path, position, value):
    content = bytearray(path.read_bytes())
    content[position] = value
    path.write_bytes(content)


@pytest.fixture
def prepared(config):
    prepare(config)
    return prepared_folder(config)


def test_a_flipped_byte_is_found_on_opening(config, prepared):
    path = prepared / "train-00001.bin"
    touch_byte(path, 7, path.read_bytes()[7] ^ 1)
    error = opening_fails(
        config, f"{path}: the content has changed", "delete the folder and prepare again"
    )
    assert error.path == path


def test_a_flipped_byte_with_an_old_date_is_found_on_demand(config, prepared):
    path = prepared / "validation-00000.bin"
    stat = path.stat()
    touch_byte(path, 7, path.read_bytes()[7] ^ 1)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    dataset = open_dataset(config)
    with pytest.raises(DataError, match="the content has changed"):
        dataset.verify()


def test_a_copied_folder_is_hashed_once_more_and_then_trusted(config, prepared, monkeypatch):
    for path in prepared.glob("*.bin"):
        os.utime(path, (1, 1))
    open_dataset(config)
    monkeypatch.setattr("train.data.verify._check_content", None)
    open_dataset(config)


def test_a_lost_memory_of_what_was_verified_is_no_harm(config, prepared):
    for content in ("", "[]", '{"train-00000.bin": 3}'):
        (prepared / "verified.json").write_text(content)
        open_dataset(config).verify()


def test_a_shorter_shard_is_found(config, prepared):
    path = prepared / "train-00001.bin"
    path.write_bytes(path.read_bytes()[:-3])
    error = opening_fails(config, f"{path}, byte 197:", "has 197 bytes and the manifest says 200")
    assert error.offset == 197


def test_a_missing_shard_is_found(config, prepared):
    (prepared / "train-00000.bin").unlink()
    opening_fails(config, f"{prepared / 'train-00000.bin'}: missing; delete the folder")


def test_a_token_out_of_the_vocabulary_is_found(config):
    config = dataclasses.replace(config, tokenizer="bpe:260")
    prepare(config)
    path = prepared_folder(config) / "train-00000.bin"
    touch_byte(path, 2 * 123 + 1, 0x7F)
    error = opening_fails(config, f"{path}, token 123:", "is not in the vocabulary of 260 tokens")
    assert (error.offset, error.unit) == (123, "token")


@pytest.mark.parametrize(
    ("damage", "fragment"),
    [
        (lambda text: text[: len(text) // 2], "damaged"),
        (lambda text: "", "damaged"),
        (lambda text: "[]", "damaged"),
        (lambda text: text.replace('"vocab_size": 256', '"vocab_size": "256"'), "vocab_size"),
        (lambda text: text.replace('"vocab_size": 256,', ""), "vocab_size"),
        (lambda text: text.replace('"uint8"', '"object"'), "'object'"),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), "schema 2"),
        (lambda text: text.replace("train-00000.bin", "../../secret"), "../../secret"),
        (lambda text: text.replace('"tokens": 200', '"tokens": -200'), "without tokens"),
        (lambda text: text.replace('"documents": ', '"documents": 9999'), "documents in"),
    ],
)
def test_a_damaged_manifest_is_refused(config, prepared, damage, fragment):
    path = prepared / "manifest.json"
    before = path.read_text()
    path.write_text(damage(before))
    assert path.read_text() != before
    opening_fails(config, f"{path}: damaged", fragment, "delete the folder and prepare again")


def test_another_tokenizer_in_the_folder_is_refused(config):
    config = dataclasses.replace(config, tokenizer="bpe:260")
    other = open_dataset(dataclasses.replace(config, tokenizer="bpe:261"))
    dataset = open_dataset(config)
    shutil.copy(other.folder / "tokenizer.json", dataset.folder)
    with pytest.raises(DataError, match="not the tokenizer that made the tokens of this folder"):
        _ = dataset.tokenizer


@pytest.mark.parametrize(
    ("asked", "other"), [("bytes", "bpe:260"), ("bpe:260", "bpe:261"), ("bpe:260", "bytes")]
)
def test_a_folder_that_another_tokenizer_made_is_refused(config, asked, other):
    config = dataclasses.replace(config, tokenizer=asked)
    made = open_dataset(dataclasses.replace(config, tokenizer=other))
    shutil.copytree(made.folder, prepared_folder(config))
    sentence = f"made by '{other.replace(':', '-')}' and not by '{asked}'; delete the folder"
    opening_fails(config, sentence)


def test_a_shard_that_another_tokenizer_made_is_refused(config, prepared):
    other = open_dataset(dataclasses.replace(config, tokenizer="bpe:260"))
    shutil.copy(other.folder / "train-00000.bin", prepared)
    opening_fails(config, "train-00000.bin", "delete the folder and prepare again")


def test_a_missing_manifest_is_found(config, prepared):
    (prepared / "manifest.json").unlink()
    opening_fails(config, "manifest.json: missing")


def test_damage_is_reported_and_not_repaired_behind_the_users_back(config, prepared):
    (prepared / "train-00000.bin").write_bytes(b"")
    before = sorted(path.name for path in prepared.iterdir())
    opening_fails(config, "train-00000.bin")
    assert sorted(path.name for path in prepared.iterdir()) == before
