"""Preparing happens once, whole or not at all, and damage is found before training starts."""

import dataclasses
import errno
import fcntl
import hashlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.data import TEXTS, leftovers, opening_fails, small_config, write_documents
from train.data import DataConfig, DataError, Manifest, open_dataset, prepare, sources
from train.data.preparing.preparation import prepared_folder
from train.data.preparing.shards import ShardWriter
from train.data.preparing.splitting import route_documents
from train.data.preparing.subword import train_bpe
from train.data.preparing.tokenizers import ByteTokenizer

END = ByteTokenizer.end_of_document


@pytest.fixture
def config(tmp_path):
    return small_config(tmp_path)


# --- what is written


def test_the_shards_hold_every_document_between_ends_of_documents(config):
    manifest = prepare(config)
    folder = prepared_folder(config)
    for split, info in (("train", manifest.train), ("validation", manifest.validation)):
        expected = [END]
        texts = [r.document.text for r in route_documents(config) if r.split == split]
        for text in texts:
            expected += [*text.encode(), END]
        written = np.concatenate([np.fromfile(folder / name, np.uint8) for name in info.shards])
        assert written.tolist() == expected
        assert len(info.shards) == -(-len(expected) // 200) > 1
        assert (info.documents, info.tokens) == (len(texts), len(expected))
        assert info.text_bytes == sum(len(text.encode()) for text in texts)


def test_bytes_per_token_counts_every_predicted_token(config):
    info = prepare(config).validation
    assert info.bytes_per_token == info.text_bytes / (info.text_bytes + info.documents)


def test_the_manifest_hashes_the_files(config):
    shards = prepare(config).shards
    for name, shard in shards.items():
        content = (prepared_folder(config) / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == shard.sha256
        assert len(content) == shard.tokens


def test_the_manifest_reads_back_as_it_was(config):
    manifest = prepare(config)
    assert Manifest.read(prepared_folder(config)) == manifest


def test_the_summary_says_what_there_is(config):
    summary = prepare(config).summary()
    for fragment in (config.source, "bytes, 256 tokens", "train", "validation", "documents"):
        assert fragment in summary


@pytest.mark.parametrize(("tokenizer", "dtype"), [("bytes", "uint8"), ("bpe:257", "uint16")])
def test_tokens_take_as_few_bytes_as_they_can(config, tokenizer, dtype):
    config = dataclasses.replace(config, tokenizer=tokenizer)
    manifest = prepare(config)
    assert manifest.dtype == dtype
    name, shard = next(iter(manifest.shards.items()))
    size = (prepared_folder(config) / name).stat().st_size
    assert size == shard.tokens * np.dtype(dtype).itemsize


def test_a_trained_tokenizer_sees_training_documents_only(config, monkeypatch):
    seen = []

    def trained(size, texts):
        seen.extend(texts)
        return train_bpe(size, seen)

    monkeypatch.setattr("train.data.preparing.subword.train_bpe", trained)
    prepare(dataclasses.replace(config, tokenizer="bpe:300"))
    assert seen == [r.document.text for r in route_documents(config) if r.split == "train"]


def test_progress_is_told(config, monkeypatch):
    monkeypatch.setattr("train.data.preparing.parts._BATCH_BYTES", 500)
    told = []
    prepare(config, progress=told.append)
    assert told == sorted(told)
    assert len(told) > 2
    assert told[-1] == (60, sum(len(text.encode()) for text in TEXTS), 1, 1)


def test_empty_documents_are_counted_and_left_out(config):
    with Path(config.source.removeprefix("jsonl:")).open("a") as file:
        file.write('{"text": ""}\n{"text": " \\n"}\n')
    manifest = prepare(config)
    assert manifest.left_out == 2
    assert manifest.train.documents + manifest.validation.documents == 60
    assert "left out" in manifest.summary()


# --- once


def test_a_second_call_does_nothing(config, monkeypatch):
    first = prepare(config)
    monkeypatch.setattr("train.data.preparing.preparation.encode", None)
    assert prepare(config) == first


@pytest.mark.parametrize(
    "change",
    [
        {"validation_fraction": 0.4},
        {"tokenizer": "bpe:260"},
        {"max_documents": 50},
        {"shard_tokens": 700},
        {"source": "synthetic", "shard_tokens": 50_000},
    ],
)
def test_another_config_has_another_folder(config, change):
    prepare(config)
    changed = dataclasses.replace(config, **change)
    assert prepared_folder(changed) != prepared_folder(config)
    assert prepare(changed).fingerprint != prepare(config).fingerprint


def test_a_changed_file_is_prepared_anew(config):
    before = prepare(config)
    with Path(config.source.removeprefix("jsonl:")).open("a") as file:
        file.write('{"text": "one more"}\n')
    assert prepare(config).fingerprint != before.fingerprint


def test_the_fingerprint_does_not_depend_on_the_place(config, tmp_path):
    before = open_dataset(config)
    moved = shutil.move(config.source.removeprefix("jsonl:"), tmp_path / "moved.jsonl")
    after = open_dataset(dataclasses.replace(config, source=f"jsonl:{moved}"))
    assert after.folder != before.folder
    assert after.fingerprint == before.fingerprint


def test_the_tokenizer_comes_with_the_dataset(config):
    dataset = open_dataset(dataclasses.replace(config, tokenizer="bpe:260"))
    assert dataset.tokenizer_name == dataset.tokenizer.name == "bpe-260"
    assert dataset.tokenizer.vocab_size == dataset.vocab_size == 260
    assert dataset.tokenizer.fingerprint == dataset.manifest.tokenizer_fingerprint
    batch = next(dataset.validation_batches(1, 40))
    assert dataset.tokenizer.decode(batch.inputs_BT[0]).startswith("<|endoftext|>document ")


# --- whole or not at all


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_nothing(config, interruption):
    def interrupt(done):
        raise interruption

    with pytest.raises(interruption):
        prepare(config, progress=interrupt)
    assert leftovers(config) == []
    assert prepare(config).train.documents > 0


def test_a_full_disk_is_told_and_what_was_encoded_is_kept(config, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "finish", full)
        opening_fails(config, config.cache_dir, "No space left on device", "make room", "cache_dir")
    assert leftovers(config) == [f".{prepared_folder(config).name}.work"]
    monkeypatch.setattr("train.data.preparing.encoding.encode_part", None)
    assert open_dataset(config).train_tokens > 0
    assert leftovers(config) == [prepared_folder(config).name]


def in_another_process(config, body):
    """Starts Python with `config` at hand."""
    program = f"import os, signal\nfrom train.data import *\nconfig = {config!r}\n{body}"
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def test_a_killed_process_leaves_nothing_that_would_be_used(config):
    killed = in_another_process(
        config, "prepare(config, progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))"
    )
    assert killed.wait(60) == -signal.SIGKILL
    (half,) = leftovers(config)
    assert half.startswith(".")
    prepare(config)
    assert leftovers(config) == [prepared_folder(config).name]


def test_two_processes_at_once_make_one_folder(config):
    body = "import time; print(prepare(config, progress=lambda *_: time.sleep(0.3)).fingerprint)"
    processes = [in_another_process(config, body) for _ in range(2)]
    fingerprints = {process.communicate(timeout=60)[0] for process in processes}
    assert fingerprints == {prepare(config).fingerprint + "\n"}
    assert leftovers(config) == [prepared_folder(config).name]


def test_without_locks_the_first_to_finish_wins(config, monkeypatch):
    """On a file system without locks another process may prepare the same folder meanwhile."""

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    def meanwhile(done):
        if not prepared_folder(config).exists():
            prepare(config)

    monkeypatch.setattr(fcntl, "flock", no_locks)
    manifest = prepare(config, progress=meanwhile)
    assert manifest == Manifest.read(prepared_folder(config))
    assert leftovers(config) == [prepared_folder(config).name]


def test_a_file_that_changes_while_it_is_read_is_refused(config):
    def append(done):
        with Path(config.source.removeprefix("jsonl:")).open("a") as file:
            file.write('{"text": "late"}\n')

    with pytest.raises(DataError, match="changed while it was read; start again"):
        prepare(config, progress=append)
    assert leftovers(config) == []


def test_an_unreadable_document_leaves_nothing(config):
    with Path(config.source.removeprefix("jsonl:")).open("a") as file:
        file.write("{")
    opening_fails(config, "documents.jsonl", "not a line of JSON")
    assert leftovers(config) == []


# --- nothing to train on


@pytest.mark.parametrize(
    ("texts", "change", "message"),
    [
        (["", " "], {}, "has no document with any text in it"),
        (["a"], {}, "none of the 1 documents is left for (training|validation)"),
        (TEXTS, {"validation_fraction": 1e-9}, "left for validation with validation_fraction"),
        (TEXTS, {"validation_fraction": 1 - 1e-9}, "left for training"),
        (TEXTS, {"validation_source": "self"}, "left for training with validation_source"),
    ],
)
def test_a_split_without_documents_is_refused(config, texts, change, message):
    path = Path(config.source.removeprefix("jsonl:"))
    write_documents(path, texts)
    if "validation_source" in change:
        change = {"validation_source": config.source}
    with pytest.raises(DataError, match=message):
        prepare(dataclasses.replace(config, **change), workers=1)
    assert leftovers(config) == []


def test_a_cache_that_cannot_be_made_is_told(config, tmp_path):
    (tmp_path / "file").touch()
    opening_fails(
        dataclasses.replace(config, cache_dir=str(tmp_path / "file" / "cache")),
        "cannot be written",
        "choose another cache_dir",
    )


def test_the_default_source_opens(tmp_path, monkeypatch):
    """With fewer modules, for the sake of time."""
    module_files = sources.StandardLibrary.documents.__globals__["_module_files"]
    monkeypatch.setattr(
        "train.data.sources.builtin._module_files", lambda library: module_files(library)[:40]
    )
    dataset = open_dataset(DataConfig(cache_dir=str(tmp_path)))
    assert dataset.train_tokens > 500_000
    assert dataset.validation_tokens > 1_000
    assert dataset.vocab_size == 256
    text = dataset.tokenizer.decode(next(dataset.train_batches(1, 2000, seed=0)).inputs_BT[0])
    assert text.isprintable() or "\n" in text
