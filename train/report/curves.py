"""Curves over training: the mean over an optimizer's seeds, and the band from lowest to highest."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.report.comparison import Group, Run

_POINTS = 240  # of a drawn curve: more cannot be seen, and would only make the page heavy
_WINDOW = 0.04  # the share of a run's logged steps that smoothing averages over
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A mean and its band over training tokens, each of shape [points]."""

    tokens: Floats
    mean: Floats
    low: Floats
    high: Floats


def training_curve(runs: Sequence[Run]) -> Curve | None:
    """The training loss, smoothed by a centred moving average over 4 % of the logged steps."""
    curve = _over_seeds([{line.tokens: line.loss for line in run.steps} for run in runs])
    return curve and _thinned(curve)


def validation_curve(runs: Sequence[Run]) -> Curve | None:
    """The validation loss."""
    return _over_seeds([_validation(run) for run in runs], smooth=False)


def difference_curve(group: Group, baseline: Group) -> Curve | None:
    """The validation loss minus the baseline's with the same seed."""
    theirs = {run.record.seed: _validation(run) for run in baseline.finished}
    differences = []
    for run in group.finished:
        other = theirs.get(run.record.seed, {})
        mine = _validation(run)
        differences.append(
            {tokens: mine[tokens] - other[tokens] for tokens in mine if tokens in other}
        )
    return _over_seeds([difference for difference in differences if difference], smooth=False)


def _validation(run: Run) -> dict[int, float]:
    return {line.tokens: line.loss for line in run.evals}


def _over_seeds(losses: Sequence[dict[int, float]], *, smooth: bool = True) -> Curve | None:
    """Mean and band at the token counts that all seeds have in common; None when there are none."""
    common = sorted(set.intersection(*map(set, losses))) if losses else []
    if not common:
        return None
    by_seed = np.array([[loss[tokens] for tokens in common] for loss in losses])
    if smooth:
        by_seed = np.array([smoothed(loss) for loss in by_seed])
    return Curve(
        tokens=np.array(common, dtype=float),
        mean=by_seed.mean(0),
        low=by_seed.min(0),
        high=by_seed.max(0),
    )


def smoothed(values: Floats) -> Floats:
    """The centred moving average; at the ends it is over the part of the window that exists."""
    reach, n = round(_WINDOW * len(values) / 2), len(values)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(n) - reach, 0)
    after = np.minimum(np.arange(n) + reach + 1, n)
    return (sums[after] - sums[first]) / (after - first)


def _thinned(curve: Curve) -> Curve:
    last = len(curve.tokens) - 1
    keep = np.unique(np.linspace(0, last, min(_POINTS, last + 1)).round().astype(int))
    return Curve(curve.tokens[keep], curve.mean[keep], curve.low[keep], curve.high[keep])
