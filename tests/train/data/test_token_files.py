"""Token files of llm.c and modded-nanogpt are used where they lie, and checked."""

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from tests.support.data import leftovers, opening_fails
from train.data import DataConfig, open_dataset, prepare
from train.data.preparing import token_files
from train.data.preparing.tokenizers import open_tokenizer

TEXTS = [f"document {i}: " + "wörds of it " * (i % 5 + 1) for i in range(30)]


def write_tokens(path, tokens, *, magic=20240520, version=1, count=None):
    header = np.zeros(256, np.int32)
    header[:3] = magic, version, len(tokens) if count is None else count
    path.write_bytes(header.tobytes() + np.asarray(tokens, np.uint16).tobytes())


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A small vocabulary, in the file that GPT-2's comes in as well."""
    folder = tmp_path_factory.mktemp("gpt2")
    trained = open_tokenizer("bpe:276", lambda: iter(TEXTS))
    trained.save(folder)
    return folder, trained


def encoded(tokenizer, texts):
    """As fineweb.py of llm.c writes them: an end of a document before each."""
    end = [tokenizer.end_of_document]
    return np.concatenate([[*end, *tokens] for tokens in tokenizer.encode_batch(texts)])


@pytest.fixture
def config(tmp_path, tokenizer):
    """Two files that train, the second one beginning within a document, and one that validates."""
    folder, trained = tokenizer
    train = encoded(trained, TEXTS[:20])
    data = tmp_path / "fineweb"
    data.mkdir()
    write_tokens(data / "fineweb_train_000001.bin", train[:150])
    write_tokens(data / "fineweb_train_000002.bin", train[150:])
    write_tokens(data / "fineweb_val_000000.bin", encoded(trained, TEXTS[20:]))
    return DataConfig(f"bin:{data}", tokenizer=f"gpt2:{folder}", cache_dir=str(tmp_path / "cache"))


def file_of(config, name):
    return Path(config.source.removeprefix("bin:")) / f"fineweb_{name}.bin"


# --- what is read


@pytest.mark.parametrize("packing", ["windows", "documents"])
def test_validation_reads_the_texts_of_the_val_files(config, packing):
    dataset = open_dataset(dataclasses.replace(config, packing=packing))
    batches = list(dataset.validation_batches(2, 50))
    targets = np.concatenate([batch.targets_BT[batch.weights_BT == 1] for batch in batches])
    text = dataset.tokenizer.decode(targets[targets != dataset.manifest.end_of_document])
    if packing == "windows":
        assert text == "".join(TEXTS[20:])
    assert len(text) == len("".join(TEXTS[20:]))
    assert dataset.bytes_per_token == len("".join(TEXTS[20:]).encode()) / len(targets)


def test_training_reads_across_the_files(config, tokenizer):
    train = encoded(tokenizer[1], TEXTS[:20])
    dataset = open_dataset(config)
    assert dataset.train_tokens == len(train)
    windows = {tuple(train[i : i + 40]) for i in range(0, len(train) - 40, 40)}
    batch = next(dataset.train_batches(len(windows), 40, seed=0))
    assert {tuple(row) for row in batch.inputs_BT.tolist()} == windows


def test_the_manifest_says_what_there_is(config, tokenizer):
    manifest = prepare(config)
    assert (manifest.tokenizer, manifest.vocab_size, manifest.dtype) == ("gpt2", 276, "uint16")
    assert (manifest.train.documents, manifest.validation.documents) == (20, 10)
    assert manifest.train.text_bytes == len("".join(TEXTS[:20]).encode())
    content = file_of(config, "val_000000").read_bytes()[1024:]
    shard = manifest.validation.shards["validation-00000.bin"]
    assert shard.sha256 == hashlib.sha256(content).hexdigest()
    assert shard.tokens == len(content) // 2


def test_nothing_is_copied(config):
    dataset = open_dataset(config)
    assert sum(path.lstat().st_size for path in dataset.folder.glob("*.bin")) < 1000
    assert (dataset.folder / "train-00001.bin").resolve() == file_of(config, "train_000002")


def test_a_validation_source_may_be_named_instead(config):
    named = dataclasses.replace(
        config,
        source=f"bin:{file_of(config, 'train_*')}",
        validation_source=f"bin:{file_of(config, 'val_000000')}",
    )
    assert open_dataset(named).fingerprint == open_dataset(config).fingerprint


def test_other_names_of_validation_files_are_known(config):
    before = open_dataset(config).fingerprint
    for old, new in (("val_000000", "TinyStories_val"), ("train_000001", "a_valid_train")):
        file_of(config, old).rename(file_of(config, old).with_name(f"{new}.bin"))
    assert open_dataset(config).fingerprint == before


def test_a_file_that_is_written_anew_is_read_anew(config, tokenizer):
    before = open_dataset(config)
    write_tokens(file_of(config, "val_000000"), encoded(tokenizer[1], TEXTS[:5]))
    after = open_dataset(config)
    assert after.folder != before.folder
    assert after.validation_tokens < before.validation_tokens


# --- what is refused


def test_a_file_shorter_than_its_header_is_refused(config):
    path = file_of(config, "train_000002")
    path.write_bytes(b"x" * 100)
    error = opening_fails(config, f"{path}, byte 100:", "100 bytes are less than the header's 1024")
    assert error.offset == 100
    assert leftovers(config) == []


@pytest.mark.parametrize(
    ("change", "offset", "fragment"),
    [
        ({"magic": 20240801}, 0, "magic number is 20240801 and not 20240520"),
        ({"version": 7}, 4, "version 7, where version 1 is read, tokens of 16 bits"),
        ({"count": 4}, 8, "the header says 4 tokens and 6 bytes follow it"),
        ({"count": 2}, 8, "the header says 2 tokens and 6 bytes follow it"),
        ({"count": -3}, 8, "the header says -3 tokens"),
    ],
)
def test_a_wrong_header_is_found_to_the_byte(config, change, offset, fragment):
    path = file_of(config, "train_000002")
    write_tokens(path, [1, 2, 3], **change)
    error = opening_fails(config, f"{path}, byte {offset}:", fragment)
    assert (error.path, error.offset) == (path, offset)
    assert leftovers(config) == []


def test_a_token_that_the_tokenizer_has_not_is_found(config):
    path = file_of(config, "val_000000")
    write_tokens(path, [1, 2, 275, 276])
    error = opening_fails(config, f"{path}, token 3: 276 is not in the vocabulary of 276 tokens")
    assert (error.offset, error.unit) == (3, "token")


@pytest.mark.parametrize("other", ["bytes", "bpe:300"])
def test_what_made_the_tokens_must_be_said(config, other):
    config = dataclasses.replace(config, tokenizer=other)
    opening_fails(config, f"tokenizer = {other!r} did not make them", "gpt2:FOLDER")


def test_files_without_one_that_validates_are_refused(config):
    config = dataclasses.replace(config, source=f"bin:{file_of(config, 'train_000001')}")
    opening_fails(config, "leaves no file for validation of 1", "fineweb_val_000000.bin")


def test_files_of_which_all_validate_are_refused(config):
    config = dataclasses.replace(config, validation_source=config.source)
    opening_fails(config, "leaves no file for training of 3")


def test_tokens_and_text_do_not_mix(config):
    mixed = dataclasses.replace(config, validation_source="synthetic")
    opening_fails(mixed, "holds tokens and 'synthetic' text")
    mixed = dataclasses.replace(config, source="synthetic", validation_source=config.source)
    opening_fails(mixed, config.source, "do not mix with text")


def test_a_number_of_documents_cannot_be_taken_from_token_files(config):
    opening_fails(dataclasses.replace(config, max_documents=3), "max_documents = 3 cannot cut")


def test_a_changed_token_is_found_through_the_link(config):
    folder = open_dataset(config).folder
    path = file_of(config, "train_000001")
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[1024 + 20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(ValueError, match=f"{folder}/train-00000.bin: the content has changed"):
        open_dataset(config)


def test_a_tokenizer_of_more_tokens_than_16_bits_tell_apart_is_refused_before_reading(
    config, tmp_path, monkeypatch
):
    words = {"<|endoftext|>": 0} | {str(i): i for i in range(1, 2**16 + 1)}
    encoding = Tokenizer(models.WordLevel(words, unk_token="1"))
    encoding.save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr(token_files, "_Reader", None)
    opening_fails(
        dataclasses.replace(config, tokenizer=f"tokenizer:{tmp_path / 'tokenizer.json'}"),
        "holds tokens of 16 bits",
        "has 65537 of them: name what made them",
    )


@pytest.mark.parametrize("count", [1, 3])
def test_files_of_nothing_but_ends_of_documents_are_refused(config, tokenizer, count):
    path = file_of(config, "val_000000")
    write_tokens(path, [tokenizer[1].end_of_document] * count)
    opening_fails(config, f"{path}: nothing in it but ends of documents")


def test_a_file_that_grows_while_it_is_read_is_refused(config, monkeypatch):
    path = file_of(config, "val_000000")
    count = token_files._count

    def grows(file):
        tokens = count(file)
        if file == path:
            path.write_bytes(path.read_bytes() + b"\0")
        return tokens

    monkeypatch.setattr(token_files, "_count", grows)
    opening_fails(config, "changed while it was read; start again")
