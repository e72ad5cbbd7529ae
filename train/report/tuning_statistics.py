"""What a budget of k trials is worth: the expected best loss, exactly, and a band around it.

One who tunes by random search tries the defaults first and then points of the search space in any
order. Over all orders of the trials that were run, the best of the first k has a mean that needs no
simulation: it follows from the order statistics of sampling without replacement. A best-of-N alone
would hide how much luck and how many trials it took.

References:
  Dodge et al., 2019, "Show your work: improved reporting of experimental results".
  Tang et al., 2020, "Showing your work doesn't always work": why without replacement.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import comb

from train.report.statistics import CONFIDENCE

Floats = NDArray[np.float64]
_RESAMPLES = 2000


@dataclass(frozen=True)
class SearchCurve:
    """The expected best loss of k trials, for k = 1 to N, and its band; each of shape [N]."""

    expected: Floats
    low: Floats
    high: Floats


def expected_best(losses: ArrayLike) -> Floats:
    r"""The expected minimum of k of N losses, drawn without replacement, for k = 1 to N.

    .. math:: E_k = \sum_{i=1}^{N} \ell_{(i)} \binom{N - i}{k - 1} \Big/ \binom{N}{k}

    where :math:`\ell_{(i)}` is the i-th lowest: it is the minimum if the other k - 1 drawn are
    among the N - i above it.

    Args:
        losses: finite losses of shape [..., N].

    Returns:
        Of shape [..., N], one for each k.

    Example:
        >>> expected_best([3.0, 1.0, 2.0]).round(3).tolist()
        [2.0, 1.333, 1.0]
    """
    ascending = np.sort(np.asarray(losses, float), axis=-1)
    n = ascending.shape[-1]
    k, i = np.arange(1, n + 1)[:, None], np.arange(1, n + 1)
    weights = comb(n - i, k - 1) / comb(n, k)
    return ascending @ weights.T


def search_curve(default: float, others: Sequence[float], seed: int = 0) -> SearchCurve:
    """The expected best loss of the defaults and k - 1 other trials in random order.

    Args:
        default: the first trial's loss.
        others: the losses of the others; finite.
        seed: of the bootstrap.

    Returns:
        The curve, with the bootstrap's 95 % band over the other trials. The defaults are no draw:
        the band begins as a point. At k = N it reaches only upwards, as no resample holds a lower
        loss than the best.
    """
    if not others:
        return SearchCurve(*([np.array([default])] * 3))
    so_far = np.minimum(default, others)
    draws = np.random.default_rng(seed).integers(len(so_far), size=(_RESAMPLES, len(so_far)))
    tails = np.array([1 - CONFIDENCE, 1 + CONFIDENCE]) / 2
    low, high = np.quantile(expected_best(so_far[draws]), tails, axis=0)
    return SearchCurve(*(np.append(default, rest) for rest in (expected_best(so_far), low, high)))


def ranks(losses: Mapping[str, float]) -> dict[str, int]:
    """Each one's rank by its loss, 1 for the lowest; equal losses share the better rank.

    Example:
        >>> ranks({"a": 2.0, "b": 1.0, "c": 2.0})
        {'a': 2, 'b': 1, 'c': 2}
    """
    return {
        name: 1 + sum(other < loss for other in losses.values()) for name, loss in losses.items()
    }


def running_quartiles(rates: Sequence[float], losses: Sequence[float]) -> Floats | None:
    """Quartiles of the loss among the trials of neighbouring rates.

    Args:
        rates: positive, in any order.
        losses: finite, one for each rate.

    Returns:
        Of shape [4, windows]: the mean rate (geometric), and the three quartiles over the third of
        the trials around it; None for fewer than six trials, of which a third has no quartiles.
    """
    if len(rates) < 6:
        return None
    order = np.argsort(rates)
    width = -(-len(rates) // 3)
    logs, values = (
        np.lib.stride_tricks.sliding_window_view(np.asarray(column, float)[order], width)
        for column in (np.log(rates), losses)
    )
    return np.vstack([np.exp(logs.mean(1)), np.quantile(values, (0.25, 0.5, 0.75), axis=1)])
