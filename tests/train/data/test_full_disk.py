"""A disk that fills up while text is prepared: one sentence, nothing half, and on it goes."""

import dataclasses
import errno
import hashlib
import random
import shutil
import subprocess

import pytest

from tests.support.data import TEXTS, opening_fails, small_config, write_documents
from tests.support.disks import needs_mounts, on_own_disk, python
from train.data import DataConfig, DataError, prepare
from train.data.preparing.preparation import prepared_folder

pytestmark = pytest.mark.faults

SENTENCE = "make room there or choose another cache_dir."
FILL_UP = """
import sys
from pathlib import Path
from tests.train.data.test_full_disk import fill_up

fill_up(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
"""


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


def texts_config(texts, cache, tokenizer):
    return DataConfig(
        f"jsonl:{texts}", tokenizer=tokenizer, shard_tokens=20_000, cache_dir=str(cache)
    )


def contents(config):
    """The name, the size and the hash of every file that preparing gives."""
    prepare(config, workers=1)
    return {
        file.name: (file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest())
        for file in prepared_folder(config).iterdir()
        if file.name != "verified.json"
    }


def fill_up(texts, disk, seed):
    """Prepares on disks of many sizes, too small at first, and prints what is said about each."""
    draw = random.Random(seed)
    for tokenizer in ("bytes", "bpe:300"):
        whole = contents(texts_config(texts, texts.parent / "roomy", tokenizer))
        config = texts_config(texts, disk / "cache", tokenizer)
        # The tokens are there twice: of each file, and then in the shards.
        too_small = 2 * sum(size for size, _ in whole.values()) * 9 // 10 // 1024
        for kilobytes in (4, *draw.sample(range(8, too_small), 9)):
            resize(disk, f"{kilobytes}k")
            with pytest.raises(DataError) as raised:
                prepare(config, workers=1)
            print(tokenizer, kilobytes, raised.value)
            assert not prepared_folder(config).exists()
            resize(disk, "50m")
            assert contents(config) == whole
            shutil.rmtree(disk / "cache")


def resize(disk, size):
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


@pytest.mark.torture
@needs_mounts
def test_wherever_the_disk_fills_up_the_same_call_goes_on_to_the_same_bytes(tmp_path, disk):
    texts = tmp_path / "texts"
    texts.mkdir()
    for name in "abc":
        own = [f"{name} {i} {text}" for i in range(25) for text in TEXTS]
        write_documents(texts / f"{name}.jsonl", own)
    seed = random.randrange(2**32)
    print("seed", seed)
    done = on_own_disk(disk, "size=50m", python("-c", FILL_UP, texts, disk, seed))
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 20
    for line in said:
        assert "No space left on device" in line
        assert line.endswith(SENTENCE)


@pytest.mark.slow
@needs_mounts
@pytest.mark.parametrize(
    ("options", "reason"),
    [("size=4k", "No space left on device"), ("ro", "Read-only file system")],
)
def test_a_disk_that_takes_nothing_is_told_in_one_sentence(tmp_path, disk, options, reason):
    small_config(tmp_path)
    source = f"jsonl:{tmp_path / 'documents.jsonl'}"
    command = python("-m", "train", "prepare", "--source", source, "--cache-dir", disk / "cache")
    done = on_own_disk(disk, options, command)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {disk / 'cache'}: cannot be written (")
    assert reason in line
    assert line.endswith(SENTENCE)


def test_a_full_disk_is_told_while_the_tokenizer_is_saved(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    config = dataclasses.replace(small_config(tmp_path), tokenizer="bpe:260")
    monkeypatch.setattr("train.data.preparing.subword.write_whole", full)
    opening_fails(config, config.cache_dir, "No space left on device", SENTENCE)
