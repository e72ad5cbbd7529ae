"""What reads files from disk, each as a target that can be fed with any bytes.

Each target writes the bytes as the file that a reader expects, and reads it. Either it is a value,
and then that is written and read back the same; or it is refused with a `ValueError` of one
printable line that names the file. Anything else is a finding; `tests.fuzz` looks for some.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
import tokenizers

from tests.fuzz.runs import RUN, TARGETS_OF_RUNS
from tests.fuzz.target import Target
from tests.support import ROOT
from train.config.plain import read_run_config, to_dict
from train.data.batches.packing import open_packing, pack
from train.data.batches.stream import TokenStream
from train.data.preparing.parts import PartInfo, SplitCounts, read_info, source_hash, tokens_file
from train.data.preparing.shards import MANIFEST_FILE, Manifest, Shard, SplitInfo, shard_name
from train.data.preparing.splitting import SPLITS, Part
from train.data.preparing.tokenizers import ByteTokenizer, open_tokenizer
from train.data.preparing.verify import verify
from train.data.sources.builtin import Synthetic
from train.data.sources.files import JsonLines
from train.host.typed_json import from_json, to_json
from train.records.files import TUNING, read_file
from train.records.lines import encode, read_records
from train.report.tuning.trials import load_results
from train.run.folder import CONFIG, RECORDS, check_owner, write_config

RESULTS = ROOT / "results" / "study"
TOKENS = np.array([255, 97, 98, 255], np.uint8)
SHARD = Shard(len(TOKENS), hashlib.sha256(TOKENS).hexdigest())
SPLIT_INFOS = [SplitInfo(1, 2, {shard_name(split, 0): SHARD}) for split in SPLITS]
MANIFEST = Manifest(
    source="stdlib",
    validation_source=None,
    tokenizer="bytes",
    tokenizer_fingerprint=ByteTokenizer.fingerprint,
    vocab_size=256,
    end_of_document=255,
    dtype="uint8",
    left_out=0,
    train=SPLIT_INFOS[0],
    validation=SPLIT_INFOS[1],
)
STREAM = TokenStream([TOKENS])
PART = Part(Synthetic(), validates=False)


def _read_manifest(path: Path) -> None:
    _sign(path)
    found = Manifest.read(path.parent)
    path.write_text(found.to_json(), encoding="utf-8")
    assert Manifest.read(path.parent) == found
    assert found.summary()
    assert len(found.fingerprint) == 64
    verify(path.parent, found, full=True)


def _sign(path: Path) -> None:
    """Makes the checksum fit, without which no change gets any further."""
    with contextlib.suppress(ValueError, RecursionError, TypeError):
        found = from_json(json.loads(path.read_bytes()), Manifest, "it")
        path.write_text(found.to_json(), encoding="utf-8")


def _read_memory(path: Path) -> None:
    try:
        verify(path.parent, MANIFEST)
    except ValueError as error:
        raise AssertionError("what is remembered must not decide what is good") from error


def _put_shards(folder: Path) -> None:
    for split in SPLITS:
        (folder / shard_name(split, 0)).write_bytes(TOKENS.tobytes())


def _read_part(path: Path) -> None:
    info = read_info(path.parent, 0, PART, ByteTokenizer())
    if info is not None:
        path.write_text(json.dumps(to_json(info)), encoding="utf-8")
        assert read_info(path.parent, 0, PART, ByteTokenizer()) == info


def _part_seeds() -> list[bytes]:
    counts = {split: SplitCounts(1, 2, 4, SHARD.sha256) for split in SPLITS}
    info = PartInfo(source_hash(PART), ByteTokenizer.fingerprint, 2, 4, 0, dict(counts))
    return [json.dumps(to_json(info)).encode()]


def _put_part(folder: Path) -> None:
    for split in SPLITS:
        tokens_file(folder, 0, split).write_bytes(TOKENS.tobytes())


def _read_packing(path: Path) -> None:
    found = open_packing(path.parents[1], "train", STREAM, 255, 2)
    wanted = pack(STREAM, 255, 2)
    assert [list(found.row(i)) for i in range(len(found))] == [
        list(wanted.row(i)) for i in range(len(wanted))
    ]


def _put_packing(folder: Path) -> None:
    (folder / "prepared").mkdir()
    open_packing(folder / "prepared", "train", STREAM, 255, 2)


def _packing_seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        _put_packing(Path(folder))
        return [(Path(folder) / TARGETS["packing"].file).read_bytes()]


def _read_documents(path: Path) -> None:
    for document in JsonLines(str(path), "text").documents():
        assert document.name.startswith(str(path))


def _read_tokenizer(path: Path) -> None:
    found = open_tokenizer(f"tokenizer:{path}", lambda: ())
    for tokens in found.encode_batch(["ab ba </s> \U0001f600\n", "", "b" * 50]):
        assert found.end_of_document not in tokens
        assert np.all(tokens < found.vocab_size)
        found.decode(tokens)


def _tokenizer_seeds() -> list[bytes]:
    """One of each kind of model."""
    words = {"a": 0, "b": 1, "ab": 2, "</s>": 3}
    kinds = (
        tokenizers.models.BPE(words, [("a", "b")], unk_token="a"),
        tokenizers.models.WordLevel(words, unk_token="a"),
        tokenizers.models.WordPiece(words, unk_token="a"),
        tokenizers.models.Unigram([(word, -1.0) for word in words], 0, False),
    )
    return [tokenizers.Tokenizer(kind).to_str().encode() for kind in kinds]


def _read_records(path: Path) -> None:
    found = read_records(path, notice=lambda _: None)
    written = b"".join(map(encode, found))
    path.write_bytes(written)
    assert b"".join(map(encode, read_records(path))) == written


def _put_records(folder: Path) -> None:
    (folder / RECORDS).write_bytes(_record_seeds()[0])


def _read_folder(path: Path) -> None:
    for _, record in read_file(path.with_name(RECORDS)):
        encode(record)


def _record_seeds() -> list[bytes]:
    """A run without its configuration, the start of one with it, and a line of each kind."""
    lines = (RESULTS / "tokens-100.jsonl").read_bytes().splitlines(keepends=True)
    first = json.dumps({**json.loads(lines[0]), "config": {}}).encode() + b"\n"
    by_kind = {json.loads(line)["kind"]: line for line in lines}
    return [first, b"".join(lines[:3]), *by_kind.values()]


def _read_configuration(path: Path) -> None:
    check_owner(path, RUN)


def _read_run_config(path: Path) -> None:
    found = read_run_config(path)
    write_config(path, found)
    assert to_dict(read_run_config(path)) == to_dict(found)


def _configuration_seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CONFIG
        write_config(path, RUN)
        return [path.read_bytes()]


def _read_tuning(path: Path) -> None:
    load_results(path.with_suffix(".jsonl"))


def _put_trials(folder: Path) -> None:
    lines = (RESULTS / "tuning.jsonl").read_bytes().splitlines(keepends=True)
    starts = [i for i, line in enumerate(lines) if line.startswith(b'{"kind": "run"')]
    (folder / TUNING).with_suffix(".jsonl").write_bytes(b"".join(lines[: starts[2]]))


TARGETS = {
    "manifest": Target(
        MANIFEST_FILE, _read_manifest, lambda: [MANIFEST.to_json().encode()], _put_shards
    ),
    "memory": Target("verified.json", _read_memory, lambda: [b"{}"], _put_shards),
    "part": Target("00000.part", _read_part, _part_seeds, _put_part),
    "packing": Target(
        "prepared/packing-train-2/starts.npy", _read_packing, _packing_seeds, _put_packing
    ),
    "documents": Target(
        "documents.jsonl", _read_documents, lambda: [b'{"text": "a"}\n\n{"text": ""}\n']
    ),
    "tokenizer": Target("tokenizer.json", _read_tokenizer, _tokenizer_seeds),
    "records": Target("many.jsonl", _read_records, _record_seeds),
    "folder": Target(CONFIG, _read_folder, _configuration_seeds, _put_records),
    "configuration": Target(CONFIG, _read_configuration, _configuration_seeds),
    "replay": Target(CONFIG, _read_run_config, _configuration_seeds),
    "tuning": Target(
        TUNING, _read_tuning, lambda: [(RESULTS / "tuning.json").read_bytes()], _put_trials
    ),
    **TARGETS_OF_RUNS,
}
