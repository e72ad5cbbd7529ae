"""Tokenizers turn any text into numbers below their vocabulary size, and back."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from tests.support.data import refused
from train.data.preparing import subword
from train.data.preparing.tokenizers import (
    TOKENIZER_FORMS,
    ByteTokenizer,
    load_saved,
    open_tokenizer,
    tokenizer_identity,
)
from train.data.sources.builtin import Synthetic

WORDS = [document.text for document in Synthetic().documents()][:64]
TEXTS = [*WORDS, "Grüße 😀 <|endoftext|>\n"]


def open_spec(spec):
    return open_tokenizer(spec, lambda: iter(TEXTS))


@pytest.fixture(scope="module")
def trained():
    return open_spec("bpe:300")


@pytest.fixture(scope="module")
def gpt2_folder(trained, tmp_path_factory):
    """A small vocabulary in the files that GPT-2 comes in."""
    folder = tmp_path_factory.mktemp("gpt2")
    trained._encoding.model.save(str(folder))
    return folder


@pytest.fixture(scope="module", params=["bytes", "bpe", "gpt2", "tokenizer"])
def tokenizer(request, trained, gpt2_folder, tmp_path_factory):
    match request.param:
        case "bytes":
            return open_spec("bytes")
        case "bpe":
            return trained
        case "gpt2":
            return open_spec(f"gpt2:{gpt2_folder}")
    folder = tmp_path_factory.mktemp("mine")
    trained.save(folder)
    return open_spec(f"tokenizer:{folder}/tokenizer.json")


any_text = st.text(max_size=60) | st.sampled_from(["<|endoftext|>", "a <|endoftext|> b", "\r\n\0"])


@given(texts=st.lists(any_text, max_size=4))
def test_decoding_gives_the_text_again(tokenizer, texts):
    encoded = tokenizer.encode_batch(texts)
    assert [tokenizer.decode(tokens) for tokens in encoded] == texts


@given(texts=st.lists(any_text, min_size=1, max_size=4))
def test_no_text_contains_the_end_of_a_document(tokenizer, texts):
    for tokens in tokenizer.encode_batch(texts):
        assert tokenizer.end_of_document not in tokens
        assert np.all(tokens < tokenizer.vocab_size)


def not_special(trained):
    """The end is an added token, but one that is looked for in every text."""
    found = json.loads(trained._encoding.to_str())
    for token in found["added_tokens"]:
        token["special"] = False
    return Tokenizer.from_str(json.dumps(found))


def a_word(_):
    """The end is a word like any other."""
    words = Tokenizer(models.WordLevel({"a": 0, "<|endoftext|>": 1}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return words


@pytest.mark.parametrize("made", [not_special, a_word])
def test_no_text_can_forge_an_end_where_the_tokenizer_lets_it(made, trained, tmp_path):
    made(trained).save(str(tmp_path / "tokenizer.json"))
    forgeable = open_spec(f"tokenizer:{tmp_path}")
    texts = ["<|endoftext|>", "a <|endoftext|><|endoftext|> a", "a" * 50_000 + " <|endoftext|>", ""]
    for text, tokens in zip(texts, forgeable.encode_batch(texts), strict=True):
        assert forgeable.end_of_document not in tokens
        assert made is a_word or forgeable.decode(tokens) == text


@pytest.mark.parametrize(
    "model",
    [
        {"type": "WordLevel", "vocab": {"a": 0, "</s>": 0}, "unk_token": "a"},
        {"type": "WordLevel", "vocab": {"a": 0, "</s>": 1}, "unk_token": "</s>"},
    ],
)
def test_an_end_that_stands_for_other_text_too_is_refused(tmp_path, model):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
    fails(f"tokenizer:{tmp_path}", "tokenizer.json: the tokenizer", "'</s>' for other text as well")


def test_an_end_that_only_normalizing_makes_is_left_out(tmp_path):
    made = a_word(None)
    made.normalizer = normalizers.Replace("end", "<|endoftext|>")
    made.save(str(tmp_path / "tokenizer.json"))
    (tokens,) = open_spec(f"tokenizer:{tmp_path}").encode_batch(["a end a"])
    assert tokens.tolist() == [0, 0]


def test_the_end_of_a_document_is_a_token(tokenizer):
    assert 0 <= tokenizer.end_of_document < tokenizer.vocab_size


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = load_saved(tokenizer.name, tokenizer.fingerprint, tmp_path)
    for before, after in zip(tokenizer.encode_batch(TEXTS), again.encode_batch(TEXTS), strict=True):
        np.testing.assert_array_equal(before, after)
    assert (again.vocab_size, again.end_of_document, again.fingerprint) == (
        tokenizer.vocab_size,
        tokenizer.end_of_document,
        tokenizer.fingerprint,
    )


def test_bytes_are_the_utf8_bytes():
    (tokens,) = ByteTokenizer().encode_batch(["aé"])
    assert tokens.tolist() == [97, 0xC3, 0xA9]
    assert ByteTokenizer().vocab_size == 256
    assert ByteTokenizer().decode([97, 0xC3]) == "a�"


def test_training_fills_the_vocabulary_and_shortens_the_text(trained):
    assert trained.vocab_size == 300
    assert trained.name == "bpe-300"
    encoded = trained.encode_batch(TEXTS)
    assert sum(map(len, encoded)) < 0.7 * sum(len(text.encode()) for text in TEXTS)


def test_training_twice_gives_the_same_tokenizer(trained):
    assert open_spec("bpe:300").fingerprint == trained.fingerprint


def test_gpt2_files_give_the_tokens_of_the_tokenizer_they_came_from(trained, gpt2_folder):
    loaded = open_spec(f"gpt2:{gpt2_folder}")
    assert loaded.name == "gpt2"
    assert loaded.end_of_document == trained.end_of_document
    for before, after in zip(trained.encode_batch(TEXTS), loaded.encode_batch(TEXTS), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_tokenizer_json_in_the_folder_comes_first(trained, gpt2_folder, tmp_path):
    trained.save(tmp_path)
    (tmp_path / "vocab.json").write_text("not read")
    assert open_spec(f"gpt2:{tmp_path}").vocab_size == 300


def test_what_pads_truncates_or_adds_to_a_text_is_switched_off(trained, tmp_path):
    encoding = Tokenizer.from_str(trained._encoding.to_str())
    encoding.enable_truncation(4)
    encoding.enable_padding(length=50)
    encoding.save(str(tmp_path / "tokenizer.json"))
    (tokens,) = open_spec(f"tokenizer:{tmp_path}").encode_batch(TEXTS[:1])
    np.testing.assert_array_equal(tokens, trained.encode_batch(TEXTS[:1])[0])


def test_holes_in_the_numbers_count_as_vocabulary(tmp_path):
    vocabulary = {"a": 0, "b": 7, "<|endoftext|>": 900}
    Tokenizer(models.WordLevel(vocabulary, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    assert open_spec(f"tokenizer:{tmp_path}").vocab_size == 901


# --- long texts are encoded in pieces


@settings(max_examples=200)
@given(text=st.text(alphabet="ab1.  \n\té'", max_size=400))
def test_pieces_have_the_tokens_of_the_whole(trained, text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subword, "_PIECE", 16)
        found = list(subword.cut(text))
        (tokens,) = trained.encode_batch([text])
    assert "".join(found) == text
    assert max(map(len, found)) <= 32
    cuts = itertools.pairwise(found)
    if all(not left[-1].isspace() and right[:1].isspace() for left, right in cuts):
        assert tokens.tolist() == trained._encoding.encode(text).ids


def test_a_word_longer_than_a_piece_still_decodes(trained):
    text = "x" * 200_000 + " y"
    (tokens,) = trained.encode_batch([text])
    assert trained.decode(tokens) == text


# --- what cannot be opened


def fails(spec, *fragments):
    return refused(lambda: open_spec(spec), *fragments)


@pytest.mark.parametrize(
    "spec", ["", "byte", "bytes:1", "gpt2", "gpt2:", "bpe:", "bpe:-1", "bpe:x"]
)
def test_an_unknown_tokenizer_is_refused_with_those_that_are_known(spec):
    fails(spec, f"unknown tokenizer {spec!r}", *TOKENIZER_FORMS)


def test_a_vocabulary_too_small_for_bytes_is_refused():
    fails("bpe:256", "'bpe:256' is too small", "257 at least")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    (tmp_path / "vocab.json").write_text("{}")
    fails(f"gpt2:{tmp_path}", f"{tmp_path}: no tokenizer here", "merges.txt")


def test_a_damaged_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"version": ')
    fails(f"tokenizer:{tmp_path}", "tokenizer.json: cannot be read as a tokenizer")


def test_a_tokenizer_without_an_end_of_document_is_refused(tmp_path):
    encoding = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    encoding.add_special_tokens([AddedToken("[PAD]")])
    encoding.save(str(tmp_path / "tokenizer.json"))
    fails(f"tokenizer:{tmp_path}", "no token for the end of a document", "<|endoftext|>")


@pytest.mark.parametrize(
    "model",
    [
        models.WordLevel({"</s>": 0, "a": 1}, unk_token="none"),
        models.Unigram([("</s>", -1.0)], None, False),
    ],
)
def test_a_tokenizer_without_a_token_for_what_it_does_not_know_is_refused(tmp_path, model):
    Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    refused(
        lambda: open_spec(f"tokenizer:{tmp_path}").encode_batch(["zzz"]),
        f"{tmp_path / 'tokenizer.json'}: the tokenizer '{tmp_path.name}' cannot encode a text",
    )


def test_a_panic_of_the_library_is_a_sentence(tmp_path):
    """Of Rust it is, and no Exception to Python."""
    model = {"type": "BPE", "vocab": {"a": 0}, "merges": ["a a"], "continuing_subword_prefix": "xx"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
    fails(f"tokenizer:{tmp_path}", "tokenizer.json: cannot be read as a tokenizer.json")


# --- what the cache goes by


def test_the_identity_follows_the_content_and_not_the_place(trained, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        trained.save(tmp_path / name)
    first, second = (tokenizer_identity(f"tokenizer:{tmp_path / name}") for name in ("one", "two"))
    assert first == second
    path = tmp_path / "two" / "tokenizer.json"
    changed = json.loads(path.read_text())
    changed["model"]["merges"].pop()
    path.write_text(json.dumps(changed))
    assert tokenizer_identity(f"tokenizer:{path}") != first
    assert tokenizer_identity("bpe:300") != tokenizer_identity("bpe:301")
