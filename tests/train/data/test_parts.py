"""Files are encoded side by side and one by one kept; the shards do not show it."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.data import TEXTS, leftovers, opening_fails, texts, write_documents
from train.data import DataConfig, DataError, prepare
from train.data.preparing import encoding
from train.data.preparing.preparation import prepared_folder
from train.data.sources import open_source


@pytest.fixture
def config(tmp_path):
    """Sixty documents in six files."""
    data = tmp_path / "data"
    data.mkdir()
    for index in range(6):
        write_documents(data / f"{index}.jsonl", TEXTS[10 * index :][:10])
    return DataConfig(
        f"jsonl:{data}",
        validation_fraction=0.3,
        shard_tokens=200,
        cache_dir=str(tmp_path / "cache"),
    )


def in_one_file(config, tmp_path):
    write_documents(tmp_path / "all.jsonl", TEXTS)
    return dataclasses.replace(config, source=f"jsonl:{tmp_path / 'all.jsonl'}")


def encoded_parts(monkeypatch):
    """The numbers of the parts that are encoded from now on."""
    encode_part, numbers = encoding.encode_part, []

    def counted(config, part, index, *rest):
        numbers.append(index)
        return encode_part(config, part, index, *rest)

    monkeypatch.setattr(encoding, "encode_part", counted)
    return numbers


# --- what the parts are


def write_sources(tmp_path):
    for name in ("b", "a[1]", "c"):
        (tmp_path / f"{name}.txt").write_text(f"{name}\n\n" * 2000)
        write_documents(tmp_path / f"{name}.jsonl", [f"{name}1", f"{name}2"])
        pq.write_table(pa.table({"text": [f"{name}3", f"{name}4"]}), tmp_path / f"{name}.parquet")


@pytest.mark.parametrize(
    ("kind", "count"), [("text", 3), ("jsonl", 3), ("parquet", 3), ("synthetic", 1)]
)
def test_the_parts_of_a_source_one_after_the_other_are_the_source(tmp_path, kind, count):
    write_sources(tmp_path)
    spec = "synthetic" if kind == "synthetic" else f"{kind}:{tmp_path}"
    parts = open_source(spec).parts()
    assert len(parts) == count
    assert [document.text for part in parts for document in part.documents()] == texts(spec)


# --- the result is the same


def test_the_shards_do_not_depend_on_the_number_of_processes(config, tmp_path):
    config = dataclasses.replace(config, tokenizer="bpe:300")
    one = prepare(in_one_file(config, tmp_path))
    in_turn = prepare(config, workers=1)
    told = []
    elsewhere = dataclasses.replace(config, cache_dir=config.cache_dir + "2")
    side_by_side = prepare(elsewhere, workers=2, progress=told.append)
    assert in_turn == side_by_side
    assert in_turn.fingerprint == one.fingerprint
    assert told == sorted(told)
    assert told[-1] == (60, sum(len(text.encode()) for text in TEXTS), 6, 6)


def test_documents_of_a_validation_source_are_left_out_of_every_part(config, tmp_path):
    write_documents(tmp_path / "held.jsonl", TEXTS[5:25])
    manifest = prepare(
        dataclasses.replace(config, validation_source=f"jsonl:{tmp_path / 'held.jsonl'}"),
        workers=1,
    )
    assert (manifest.left_out, manifest.train.documents) == (20, 40)
    assert manifest.validation.documents == 20


def test_the_first_documents_are_counted_across_files(config):
    manifest = prepare(dataclasses.replace(config, max_documents=25))
    assert manifest.train.documents + manifest.validation.documents == 25


# --- going on


def stopped_after(files, config, how):
    """Prepares the config in another process until it has told of so many files."""
    program = (
        "import os, signal\nfrom train.data import *\n"
        f"def stop(done):\n    if done.documents > {10 * files}: {how}\n"
        f"prepare({config!r}, workers=1, progress=stop)"
    )
    return subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, check=False)


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), signal.SIGKILL)", "raise KeyboardInterrupt"])
def test_what_was_finished_before_a_stop_is_not_done_again(config, tmp_path, monkeypatch, how):
    assert stopped_after(2, config, how).returncode != 0
    assert leftovers(config) == [f".{prepared_folder(config).name}.work"]
    again = encoded_parts(monkeypatch)
    told = []
    manifest = prepare(config, workers=1, progress=told.append)
    assert again == [2, 3, 4, 5]
    assert (told[0].documents, told[0].parts, told[0].of_parts) == (30, 2, 6)
    assert manifest.fingerprint == prepare(in_one_file(config, tmp_path)).fingerprint
    assert prepared_folder(config).name in leftovers(config)
    assert not any(name.endswith(".work") for name in leftovers(config))


def test_a_part_whose_tokens_are_not_whole_is_done_again(config, monkeypatch):
    stopped_after(3, config, "os._exit(1)")
    work = prepared_folder(config).with_name(f".{prepared_folder(config).name}.work")
    path = work / "00001-train.tokens"
    path.write_bytes(path.read_bytes()[:-1])
    (work / "00002.part").write_text("{")
    again = encoded_parts(monkeypatch)
    prepare(config, workers=1)
    assert again == [1, 2, 3, 4, 5]


def test_tokens_of_two_tokenizers_are_not_mixed(config):
    stopped_after(2, config, "os._exit(1)")
    work = prepared_folder(config).with_name(f".{prepared_folder(config).name}.work")
    path = work / "00001.part"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"tokenizer_fingerprint": "another"}))
    opening_fails(config, str(work), "begun with another tokenizer than what 'bytes' is now")
    assert path.exists()


# --- what goes wrong


def test_a_bad_file_is_named_by_the_process_that_read_it(config):
    with (Path(config.source.removeprefix("jsonl:")) / "4.jsonl").open("a") as file:
        file.write("{")
    with pytest.raises(DataError, match=r"4.jsonl, byte .* not a line of JSON") as raised:
        prepare(config, workers=2)
    assert raised.value.path.name == "4.jsonl"
    assert leftovers(config) == []


def test_a_killed_worker_is_told_and_the_rest_is_kept(config, monkeypatch):
    """The parent is told of a batch, and then kills a process of its own."""

    def kill(done):
        if done.documents > 20:
            with contextlib.suppress(ProcessLookupError):  # It may be dead already.
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    write_documents(Path(config.source.removeprefix("jsonl:")) / "5.jsonl", TEXTS * 4_000)
    with pytest.raises(DataError, match="was killed, most likely for its memory"):
        prepare(config, workers=2, progress=kill)
    (work,) = leftovers(config)
    assert work.endswith(".work")


def test_no_workers_are_refused(config):
    with pytest.raises(ValueError, match="workers = 0 must be at least 1"):
        prepare(config, workers=0)


def test_the_processes_end_with_the_one_that_started_them(config):
    write_documents(Path(config.source.removeprefix("jsonl:")) / "5.jsonl", TEXTS * 4_000)
    program = (
        "import multiprocessing, os, signal\nfrom train.data import *\n"
        "def kill(done):\n"
        "    print(*[child.pid for child in multiprocessing.active_children()], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"prepare({config!r}, workers=2, progress=kill)"
    )
    # It ends only when all have closed the pipe, so the time limit is the test.
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert len(done.stdout.split()) == 2
