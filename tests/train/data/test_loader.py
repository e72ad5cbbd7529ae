"""A batch is a function of the seed and the step; the windows are those of the plain token list."""

import itertools

import chex
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.data import DataConfig, DataError, open_dataset
from train.data.batches import loader
from train.data.batches.rows import Windows
from train.data.batches.stream import TokenStream


def stream(tokens, *cuts):
    """The tokens in shards that end at the cuts."""
    return TokenStream(np.split(np.asarray(tokens, np.uint16), cuts))


def train_batches(tokens, batch_size, context, **options):
    return loader.train_batches(Windows(tokens, context), batch_size, **options)


def validation_batches(tokens, batch_size, context, **options):
    return loader.validation_batches(Windows(tokens, context), batch_size, **options)


def joined(parts):
    """The batch whose rows the processes have."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def first(batches, count):
    return list(itertools.islice(batches, count))


TOKENS = np.random.default_rng(0).integers(0, 50_000, 1000)
STREAM = stream(TOKENS, 300, 301, 640)


# --- the stream


@settings(max_examples=300)
@given(data=st.data(), size=st.integers(1, 60))
def test_windows_are_slices_of_the_concatenated_shards(data, size):
    cuts = data.draw(st.lists(st.integers(1, size - 1), unique=True) if size > 1 else st.just([]))
    length = data.draw(st.integers(1, size))
    starts = data.draw(st.lists(st.integers(0, size - length), max_size=5))
    tokens = np.arange(size) + 1
    windows = stream(tokens, *sorted(cuts)).windows(starts, length)
    assert windows.dtype == np.int32
    assert windows.shape == (len(starts), length)
    for window, start in zip(windows, starts, strict=True):
        np.testing.assert_array_equal(window, tokens[start : start + length])


def test_large_tokens_stay_positive():
    tokens = TokenStream([np.array([70_000, 2**31 - 1], np.uint32)])
    assert tokens.windows([0], 2).tolist() == [[70_000, 2**31 - 1]]


# --- training batches


def test_shapes_and_types():
    batch = next(train_batches(STREAM, 6, 8, seed=0))
    chex.assert_shape(batch[:3], (6, 8))
    assert [array.dtype for array in batch[:3]] == [np.int32, np.int32, np.float32]
    assert batch.segment_ids_BT is None
    assert np.all(batch.weights_BT == 1)


def test_targets_are_the_inputs_shifted_by_one():
    batch = next(train_batches(STREAM, 6, 8, seed=0))
    np.testing.assert_array_equal(batch.inputs_BT[:, 1:], batch.targets_BT[:, :-1])


@given(
    data=st.data(),
    context=st.integers(1, 9),
    rows=st.integers(1, 6),
    seed=st.integers(0, 2**63),
)
def test_an_epoch_has_every_window_of_the_token_list_once(data, context, rows, seed):
    size = data.draw(st.integers(rows * context + 1, 120))
    cuts = sorted(data.draw(st.sets(st.integers(1, size - 1), max_size=4)))
    tokens = np.arange(size)
    count = (size - 1) // context
    expected = [
        (tuple(tokens[i : i + context]), tuple(tokens[i + 1 : i + context + 1]))
        for i in range(0, count * context, context)
    ]
    batches = first(train_batches(stream(tokens, *cuts), rows, context, seed=seed), count)
    read = [
        (tuple(inputs), tuple(targets))
        for batch in batches
        for inputs, targets in zip(batch.inputs_BT, batch.targets_BT, strict=True)
    ]
    for epoch in range(rows):  # As many epochs as rows, since `count` batches were read.
        assert sorted(read[epoch * count : (epoch + 1) * count]) == expected


def order(seed, epochs=1, context=4):
    """The first tokens of the windows, epoch by epoch."""
    tokens = stream(np.arange(1001))
    count = 1000 // context
    batches = first(train_batches(tokens, count, context, seed=seed), epochs)
    return [batch.inputs_BT[:, 0].tolist() for batch in batches]


def test_every_epoch_and_every_seed_has_its_own_order():
    orders = [tuple(epoch) for seed in range(4) for epoch in order(seed, epochs=4)]
    assert len(set(orders)) == 16


def test_the_order_is_well_mixed():
    (positions,) = order(seed=0)
    assert abs(np.corrcoef(positions, range(len(positions)))[0, 1]) < 0.2
    assert abs(np.corrcoef(positions[:-1], positions[1:])[0, 1]) < 0.2


def test_the_order_never_changes():
    """Runs can be repeated years later; if this fails, say so in the change log."""
    assert order(seed=7)[0][:6] == [12, 448, 856, 864, 984, 952]


def test_the_same_seed_gives_the_same_batches():
    chex.assert_trees_all_equal(
        first(train_batches(STREAM, 4, 8, seed=3), 100),
        first(train_batches(STREAM, 4, 8, seed=3), 100),
    )


@given(start=st.integers(0, 80))  # An epoch has 31 batches.
def test_resuming_is_going_on(start):
    through = first(train_batches(STREAM, 4, 8, seed=3), start + 3)
    resumed = first(train_batches(STREAM, 4, 8, seed=3, start_step=start), 3)
    chex.assert_trees_all_equal(resumed, through[start:])


def test_a_late_step_is_reached_at_once():
    far = train_batches(STREAM, 4, 8, seed=3, start_step=10**12)
    again = train_batches(STREAM, 4, 8, seed=3, start_step=10**12 - 1)
    next(again)
    chex.assert_trees_all_equal(next(far), next(again))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 12])
def test_the_processes_share_out_the_global_batch(count):
    whole = first(train_batches(STREAM, 12, 8, seed=3, start_step=5), 20)
    shares = [
        first(
            train_batches(
                STREAM, 12, 8, seed=3, start_step=5, process_index=index, process_count=count
            ),
            20,
        )
        for index in range(count)
    ]
    for batch, parts in zip(whole, zip(*shares, strict=True), strict=True):
        chex.assert_trees_all_equal(batch, joined(parts))


def test_a_caller_who_writes_into_a_batch_does_not_change_the_next():
    batches = train_batches(STREAM, 4, 8, seed=3)
    expected = first(train_batches(STREAM, 4, 8, seed=3), 2)[1]
    batch = next(batches)
    batch.inputs_BT[:] = 0
    with pytest.raises(ValueError, match="read-only"):
        batch.weights_BT[:] = 0
    chex.assert_trees_all_equal(next(batches), expected)


# --- validation batches


@given(data=st.data(), size=st.integers(2, 80), context=st.integers(1, 9), rows=st.integers(1, 5))
def test_validation_predicts_every_token_but_the_first_once_and_in_order(data, size, context, rows):
    cuts = sorted(data.draw(st.sets(st.integers(1, size - 1), max_size=4)))
    tokens = np.arange(size) + 1
    batches = list(validation_batches(stream(tokens, *cuts), rows, context))
    predicted = [batch.targets_BT[batch.weights_BT == 1] for batch in batches]
    read = [batch.inputs_BT[batch.weights_BT == 1] for batch in batches]
    np.testing.assert_array_equal(np.concatenate(predicted), tokens[1:])
    np.testing.assert_array_equal(np.concatenate(read), tokens[:-1])
    for batch in batches:
        chex.assert_shape(batch[:3], (rows, context))
        assert batch.weights_BT[0, 0] == 1  # No batch of padding alone.


def test_validation_is_the_same_every_time():
    chex.assert_trees_all_equal(
        list(validation_batches(STREAM, 4, 8)), list(validation_batches(STREAM, 4, 8))
    )


def test_validation_can_be_capped():
    everything = list(validation_batches(STREAM, 4, 8))
    assert len(everything) == 32
    chex.assert_trees_all_equal(
        list(validation_batches(STREAM, 4, 8, max_batches=3)), everything[:3]
    )
    assert len(list(validation_batches(STREAM, 4, 8, max_batches=99))) == 32


def test_the_processes_share_out_the_validation_batch():
    whole = list(validation_batches(STREAM, 6, 7))
    shares = [
        list(validation_batches(STREAM, 6, 7, process_index=index, process_count=3))
        for index in range(3)
    ]
    for batch, parts in zip(whole, zip(*shares, strict=True), strict=True):
        chex.assert_trees_all_equal(batch, joined(parts))


# --- what cannot be read


def test_too_few_tokens_for_one_batch_are_refused():
    with pytest.raises(DataError, match=r"1000 tokens make 7 windows of 128, too few"):
        train_batches(STREAM, 8, 128, seed=0)
    assert len(next(train_batches(STREAM, 7, 128, seed=0)).inputs_BT) == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0"),
        ({"context": 0}, "context = 0"),
        ({"process_count": 3}, "batch_size = 8 cannot be dealt out among 3 processes; .* as 9"),
        ({"process_index": 2, "process_count": 2}, "process_index = 2 must lie between 0 and"),
        ({"process_index": -1}, "process_index = -1"),
        ({"seed": -1}, "seed = -1"),
        ({"start_step": -1}, "start_step = -1"),
    ],
)
def test_numbers_out_of_range_are_refused_before_the_first_batch(change, message):
    with pytest.raises(ValueError, match=message):
        train_batches(STREAM, **({"batch_size": 8, "context": 8, "seed": 0} | change))


def test_a_cap_of_no_batches_is_refused():
    with pytest.raises(ValueError, match="max_batches is 0"):
        validation_batches(STREAM, 8, 8, max_batches=0)


# --- from the folder


def test_a_dataset_reads_what_was_prepared(tmp_path):
    config = DataConfig("synthetic", shard_tokens=10_000, cache_dir=str(tmp_path))
    dataset = open_dataset(config)
    assert len(dataset.manifest.train.shards) > 20
    validation = np.concatenate(
        [batch.targets_BT[batch.weights_BT == 1] for batch in dataset.validation_batches(4, 50)]
    )
    assert len(validation) == dataset.validation_tokens - 1
    text = dataset.tokenizer.decode(validation[validation != 255])
    assert len(text) == dataset.manifest.validation.text_bytes
    assert dataset.bytes_per_token == len(text) / len(validation)
    words = {
        word
        for batch in first(dataset.train_batches(8, 200, seed=0), 9)
        for word in (dataset.tokenizer.decode(batch.inputs_BT[0]).split()[1:-1])
    }
    assert "gudula" in words
    assert dataset.fingerprint == open_dataset(config).fingerprint
