"""Packed rows hold whole documents that do not see each other, each of their tokens once."""

import collections
import dataclasses
import itertools
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.data import small_config
from train.data import DataError, open_dataset
from train.data.batches import loader
from train.data.batches.packing import best_fit, pack
from train.data.batches.rows import PackedDocuments
from train.data.batches.stream import TokenStream

END = 0


def slow_best_fit(lengths, capacity):
    """One piece after the other, the longest first, into the row with the least space."""
    with_space = collections.defaultdict(collections.deque)  # Who had it first comes first.
    rows, opened = {}, 0
    for piece in sorted(range(len(lengths)), key=lambda piece: -lengths[piece]):
        fitting = [s for s, waiting in with_space.items() if waiting and s >= lengths[piece]]
        if fitting:
            space = min(fitting)
            row = with_space[space].popleft()
        else:
            space, row = capacity, opened
            opened += 1
        rows[piece] = row
        with_space[space - lengths[piece]].append(row)
    return [rows[piece] for piece in range(len(lengths))]


def slow_documents(tokens, context):
    """Inputs and targets of each piece of each document."""
    starts = [0, *(i for i in range(1, len(tokens) - 1) if tokens[i] == END)]
    for start, end in itertools.pairwise([*starts, len(tokens) - 1]):
        for first in range(start, end, context):
            last = min(first + context, end)
            yield tuple(tokens[first:last]), tuple(tokens[first + 1 : last + 1])


def packed(tokens, context, *cuts):
    stream = TokenStream(np.split(np.asarray(tokens, np.uint16), cuts))
    return PackedDocuments(stream, pack(stream, END, context))


def documents_of(batches):
    """Inputs and targets of each segment of the batches."""
    for batch in batches:
        for inputs, targets, weights, segments in zip(*batch, strict=True):
            np.testing.assert_array_equal(weights, segments > 0)
            count = segments.max()
            used = segments[segments > 0]
            assert sorted(used) == used.tolist() == segments[: len(used)].tolist()
            assert set(used) == set(range(1, count + 1))
            for segment in range(1, count + 1):
                own = segments == segment
                yield tuple(inputs[own].tolist()), tuple(targets[own].tolist())


def some_tokens(count, seed=0, share_of_ends=0.1):
    generator = np.random.default_rng(seed)
    tokens = np.where(generator.random(count) < share_of_ends, END, np.arange(count) + 1)
    return [END, *tokens.tolist(), END]


token_lists = st.lists(st.sampled_from([END, 1, 2, 3, 4, 5]), min_size=2, max_size=60)
TOKENS = some_tokens(3000)


# --- which row


@settings(max_examples=300)
@given(data=st.data(), capacity=st.integers(1, 40))
def test_pieces_go_where_one_at_a_time_by_best_fit_they_would(data, capacity):
    lengths = data.draw(st.lists(st.integers(1, capacity), min_size=1, max_size=60))
    rows, openers = best_fit(np.array(lengths), capacity)
    assert rows.tolist() == slow_best_fit(lengths, capacity)
    for row, opener in enumerate(openers):
        own = [lengths[piece] for piece in np.flatnonzero(rows == row)]
        assert sum(own) <= capacity
        assert lengths[opener] == max(own)
        assert rows[opener] == row


def test_many_documents_leave_hardly_a_gap():
    lengths = np.random.default_rng(0).lognormal(5.5, 1.2, 20_000).astype(int).clip(1, 1024)
    rows, _ = best_fit(lengths, 1024)
    assert lengths.sum() / (1024 * (rows.max() + 1)) > 0.995


# --- what is in the rows


@settings(max_examples=300)
@given(tokens=token_lists, context=st.integers(1, 12), rows=st.integers(1, 4), data=st.data())
def test_validation_has_every_document_once_cut_only_if_it_is_longer_than_a_row(
    tokens, context, rows, data
):
    cuts = sorted(data.draw(st.sets(st.integers(1, len(tokens) - 1), max_size=3)))
    batches = list(loader.validation_batches(packed(tokens, context, *cuts), rows))
    assert sorted(documents_of(batches)) == sorted(slow_documents(tokens, context))
    for batch in batches:
        chex.assert_shape(batch, (rows, context))
        assert [array.dtype for array in batch] == [np.int32, np.int32, np.float32, np.int32]


@settings(max_examples=50)
@given(tokens=token_lists, context=st.integers(1, 12), seed=st.integers(0, 2**40))
def test_an_epoch_of_training_has_every_document_once(tokens, context, seed):
    rows = packed(tokens, context)
    for size in {1, len(rows)}:
        epoch = itertools.islice(loader.train_batches(rows, size, seed=seed), len(rows) // size)
        assert sorted(documents_of(epoch)) == sorted(slow_documents(tokens, context))


def test_the_padding_is_what_no_document_fills():
    rows = packed(TOKENS, 64)
    batches = list(loader.validation_batches(rows, 1))
    assert rows.padding == pytest.approx(np.mean([batch.weights_BT == 0 for batch in batches]))
    assert rows.padding < 0.05


def test_the_first_rows_are_as_long_as_the_last():
    """Else an evaluation of the first batches alone would see none but long documents."""
    lengths = [
        np.mean([len(inputs) for inputs, _ in documents_of([batch])])
        for batch in itertools.islice(loader.validation_batches(packed(TOKENS, 32), 40), 2)
    ]
    assert 0.7 < lengths[0] / lengths[1] < 1.4


# --- batches


def test_the_same_seed_gives_the_same_batches_and_another_one_others():
    rows = packed(TOKENS, 32)
    one, again, other = (
        list(itertools.islice(loader.train_batches(rows, 4, seed=seed), 30)) for seed in (3, 3, 4)
    )
    chex.assert_trees_all_equal(one, again)
    assert not all(
        np.array_equal(a.inputs_BT, b.inputs_BT) for a, b in zip(one, other, strict=True)
    )


@given(start=st.integers(0, 60), count=st.sampled_from([1, 2, 3, 6]))
@settings(max_examples=15)
def test_any_number_of_processes_goes_on_where_others_stopped(start, count):
    rows = packed(TOKENS, 32)
    through = list(itertools.islice(loader.train_batches(rows, 6, seed=1), start + 3))
    shares = [
        itertools.islice(
            loader.train_batches(
                rows, 6, seed=1, start_step=start, process_index=index, process_count=count
            ),
            3,
        )
        for index in range(count)
    ]
    for whole, parts in zip(through[start:], zip(*shares, strict=True), strict=True):
        joined = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
        chex.assert_trees_all_equal(whole, joined)


def test_too_few_rows_for_a_batch_are_refused():
    with pytest.raises(DataError, match=r"tokens make \d+ rows of 64, too few for a training"):
        loader.train_batches(packed(TOKENS, 64), 1000, seed=0)


# --- from the folder


@pytest.fixture
def config(tmp_path):
    return dataclasses.replace(small_config(tmp_path), packing="documents")


def test_a_packed_dataset_has_the_texts_that_were_prepared(config):
    dataset = open_dataset(config)
    pieces = documents_of(dataset.validation_batches(3, 400))
    texts = sorted(dataset.tokenizer.decode(targets[:-1]) for _, targets in pieces)
    assert len(texts) == dataset.manifest.validation.documents
    assert all(text.startswith("document ") for text in texts)
    weights = sum(batch.weights_BT.sum() for batch in dataset.validation_batches(3, 400))
    assert weights == dataset.validation_tokens - 1  # As `bytes_per_token` counts.
    assert 0 < dataset.padding(400) < 0.5


def test_packing_needs_no_second_preparation_but_makes_other_batches(config, monkeypatch):
    windows = open_dataset(dataclasses.replace(config, packing="windows"))
    monkeypatch.setattr("train.data.preparing.preparation.encode", None)
    documents = open_dataset(config)
    assert documents.folder == windows.folder
    assert documents.fingerprint != windows.fingerprint
    assert windows.padding(20) == 0


def test_the_packing_is_computed_once_for_a_context(config, monkeypatch):
    before = list(open_dataset(config).validation_batches(2, 40))
    monkeypatch.setattr("train.data.batches.packing.pack", None)
    chex.assert_trees_all_equal(list(open_dataset(config).validation_batches(2, 40)), before)
    with pytest.raises(TypeError):
        open_dataset(config).validation_batches(2, 41)


def test_a_kill_while_a_packing_is_kept_leaves_nothing_for_good(config):
    dataset = open_dataset(config)
    program = (
        "import os, train.data.batches.packing as files\nfrom train.data import *\n"
        "files.sync_folder = lambda _: os._exit(9)\n"
        f"open_dataset({config!r}).validation_batches(2, 40)"
    )
    before = set(dataset.folder.iterdir())
    assert subprocess.call([sys.executable, "-c", program]) == 9
    dataset.validation_batches(2, 40)
    (made,) = set(dataset.folder.iterdir()) - before
    assert made.name == "packing-validation-40"


def test_a_folder_that_cannot_be_written_is_packed_every_time(config, monkeypatch):
    dataset = open_dataset(config)

    def read_only(*_, **__):
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr("train.data.batches.packing.np.save", read_only)
        before = list(dataset.validation_batches(2, 40))
    assert not list(dataset.folder.glob("*packing*"))
    chex.assert_trees_all_equal(list(open_dataset(config).validation_batches(2, 40)), before)


@pytest.mark.parametrize("name", ["starts", "lengths", "ends"])
@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-8]])
def test_a_damaged_packing_is_refused(config, name, damage):
    dataset = open_dataset(config)
    dataset.validation_batches(2, 40)
    path = dataset.folder / "packing-validation-40" / f"{name}.npy"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="packing-validation-40: damaged; delete this folder"):
        open_dataset(config).validation_batches(2, 40)


def test_an_unknown_packing_is_refused(config):
    with pytest.raises(ValueError, match="packing is 'rows'; it must be 'windows' or 'documents'"):
        dataclasses.replace(config, packing="rows")


def test_a_context_out_of_range_is_refused(config):
    with pytest.raises(ValueError, match="context = 0 must be at least 1"):
        open_dataset(config).train_batches(2, 0, seed=0)
