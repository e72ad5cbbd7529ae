"""What the tests of the data pipeline share: reading a source, and a small data set."""

import json
from pathlib import Path

import pytest

from train.data import DataConfig, DataError, open_dataset
from train.data.sources import open_source

TEXTS = [f"document {i}: " + "wörds " * (i % 7) for i in range(60)]


def texts(spec, text_column="text"):
    return [document.text for document in open_source(spec, text_column).documents()]


def refused(act, *fragments):
    """The error that `act` ends with, whose message must have the fragments in it."""
    with pytest.raises(DataError) as raised:
        act()
    for fragment in fragments:
        assert fragment in str(raised.value)
    return raised.value


def fails(spec, *fragments, text_column="text"):
    return refused(lambda: texts(spec, text_column), *fragments)


def small_config(tmp_path):
    """Sixty documents in JSON lines; shards of 200 tokens, so that there are several."""
    write_documents(tmp_path / "documents.jsonl", TEXTS)
    return DataConfig(
        f"jsonl:{tmp_path / 'documents.jsonl'}",
        validation_fraction=0.3,
        shard_tokens=200,
        cache_dir=str(tmp_path / "cache"),
    )


def write_documents(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def opening_fails(config, *fragments):
    return refused(lambda: open_dataset(config), *fragments)


def leftovers(config):
    cache = Path(config.cache_dir)
    return [path.name for path in cache.iterdir() if path.suffix != ".lock"]
