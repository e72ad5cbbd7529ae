"""The targets of `make fuzz`: what they read is read, and what was found once is refused."""

import json

import pytest

from tests.fuzz.json_text import mutated
from tests.fuzz.readers import RESULTS, TARGETS
from tests.fuzz.runs import RUN
from tests.fuzz.target import check, scratch
from train.config.plain import to_dict

pytestmark = pytest.mark.faults

DEEP = b"[" * 50_000


def _tokenizer(model):
    return json.dumps({"version": "1.0", "added_tokens": [], "model": model}).encode()


FOUND = {
    "manifest": [
        b'{"source": "\\ud800"}',
        b'{"train": {"a\\nb": 1}, "train": {"shards": {"a\\nb": 1}}}',
    ],
    "memory": [DEEP, b"[]", b'{"train-00000.bin": [4, 1, 1]}'],
    "part": [DEEP, b'{"splits": {}}'],
    "packing": [b"", b"\x93NUMPY\x01\x00v\x00{'descr': " + b"-" * 8000],
    "documents": [DEEP, b'{"text": "a"}\n' + DEEP],
    "tokenizer": [
        b"{",
        DEEP,
        b'{"version": "\\u001b[2J"}',
        _tokenizer({"type": "WordLevel", "vocab": {"</s>": 0}, "unk_token": "none"}),
        _tokenizer({"type": "Unigram", "vocab": [["</s>", -1.0]], "unk_id": None}),
        _tokenizer({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}),
        b'{"model": {"vocab": {"a": 0, "</s>": 0}, "unk_token": "a"}}',
        _tokenizer(
            {
                "type": "BPE",
                "vocab": {"a": 0, "</s>": 1},
                "merges": ["a a"],
                "continuing_subword_prefix": "xx",
            }
        ),
    ],
    "records": [DEEP + b"\n", b"\x00" * 4 + b"[\n"],
    "folder": [
        b"{",
        DEEP,
        b"3",
        b'{"kind": [NaN]}',
        b'{"kind": "\\ud800"}',
        b'{"kind": ' + b"[" * 400 + b"]" * 400 + b"}",
    ],
    "configuration": [b"{", DEEP, b'{"a\\nb": 1}', json.dumps({"steps": "x" * 5000}).encode()],
    "replay": [
        b"{",
        DEEP,
        b"3",
        json.dumps(to_dict(RUN) | {"schedule": 3}).encode(),
        json.dumps(to_dict(RUN) | {"batch_size": 10**400, "accumulate": 1.5}).encode(),
    ],
    "tuning": [
        b"{",
        b"3",
        b"{}",
        b'{"spaces": [], "trials": "9"}',
        b'{"spaces": [3], "trials": 9}',
        *(
            json.dumps(
                {"spaces": [{"optimizer": {"kind": "AdamW"}, "dimensions": [one]}], "trials": 9}
            ).encode()
            for one in (
                {"kind": {}},
                {"kind": "Gaussian"},
                {"kind": "Uniform", "field": "b2", "low": [0.1], "high": 1.0},
                {"kind": "Choices", "field": "b2", "values": [{}, {}]},
            )
        ),
    ],
    "seal": [b"", DEEP, b"0" * 64 + b"  ../../etc/passwd\n", b"0" * 64 + b"  a\x1b[2J\n"],
    "weights": [b"{", DEEP, b"{}", b'{"__metadata__": {"optax_strat": "[]"}}'],
    "about": [b"{", DEEP, b"{}", b'{"schema": 2}'],
}
"""Each once ended in a traceback, or in a sentence that named no file or had several lines."""


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_is_refused_in_one_sentence_or_passed_over(name):
    target = TARGETS[name]
    with scratch(target) as folder:
        for content in FOUND[name]:
            check(target, folder, content)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_reads_what_is_right_and_changes_of_it_do_no_harm(name):
    target = TARGETS[name]
    with scratch(target) as folder:
        for content in target.seeds():
            assert check(target, folder, content)
            for seed in range(40):
                changed = mutated(content, seed)
                if changed is not None:
                    check(target, folder, changed)


def test_a_mutation_is_drawn_from_its_seed_alone():
    content = (RESULTS / "tuning.json").read_bytes()
    assert mutated(content, 3) == mutated(content, 3) != mutated(content, 4)
    assert mutated(b"\xff", 3) is None
