"""The loss is the sum of the targets' negative log-likelihoods over the positions that count."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from train.loss import cross_entropy


def reference(logits, targets, weights):
    """In float64, one position after the other."""
    total = 0.0
    for b, t in np.ndindex(*targets.shape):
        row = logits[b, t].astype(np.float64)
        log_normalizer = row.max() + np.log(np.exp(row - row.max()).sum())
        total += weights[b, t] * (log_normalizer - row[targets[b, t]])
    return total, weights.sum(dtype=np.float64)


@given(st.sampled_from([(1, 1, 2), (3, 5, 9)]), st.integers(0, 2**32 - 1))
def test_loss_equals_the_float64_definition(shape, seed):
    batch, length, vocab = shape
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(batch, length, vocab), scale=8.0).astype(np.float32)
    targets = rng.integers(vocab, size=(batch, length))
    weights = rng.integers(2, size=(batch, length)).astype(np.float32)
    total, weight = cross_entropy(logits, targets, weights)
    expected_total, expected_weight = reference(logits, targets, weights)
    np.testing.assert_allclose(total, expected_total, rtol=2e-6, atol=1e-5)
    assert weight == expected_weight


def test_padding_changes_nothing():
    logits = np.random.default_rng(0).normal(size=(2, 4, 7)).astype(np.float32)
    targets = np.array([[1, 2, 3, 4], [5, 6, 0, 1]])
    weights = np.ones((2, 4), np.float32)
    weights[1, 2:] = 0
    scrambled = np.where(weights[..., None] == 0, 1e3, logits)
    np.testing.assert_array_equal(
        cross_entropy(logits, targets, weights), cross_entropy(scrambled, targets, weights)
    )
