r"""A curve of loss over tokens, fitted to a few budgets.

.. math:: L(D) = E + B D^{-\beta}, \qquad E \ge 0

References:
  Hoffmann et al., 2022, "Training compute-optimal large language models", section 3.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from train.report.study_resampling import Floats

FEWEST_BUDGETS = 3
"""Token budgets that a fit takes: the curve has three coefficients."""
_EXPONENTS = 0.01, 10.0  # Between them a curve is all but a logarithm, and all but a step.
_POINTS, _ZOOMS = 33, 8  # Each zoom narrows the range sixteenfold.


@dataclass(frozen=True)
class LossCurve:
    r"""Curves :math:`L(D) = E + B (D / D_0)^{-\beta}`, one for each entry of the coefficients.

    Attributes:
        floor: E, what no amount of data takes away, in nats per token.
        scale: B, in nats per token.
        exponent: beta.
        unit: D_0, in tokens.
    """

    floor: Floats
    scale: Floats
    exponent: Floats
    unit: float

    def loss(self, tokens: ArrayLike) -> Floats:
        """The loss after so many tokens."""
        return self.floor + self.scale * (np.asarray(tokens) / self.unit) ** -self.exponent

    def tokens(self, loss: ArrayLike) -> Floats:
        """The tokens that take the curve to a loss: at least one, infinitely many for its floor."""
        above = np.maximum(np.asarray(loss) - self.floor, 0.0)
        never = np.full(above.shape, np.inf)
        ratio = np.divide(self.scale, above, out=never, where=above > 0)
        with np.errstate(over="ignore"):
            return np.maximum(self.unit * ratio ** (1 / self.exponent), 1.0)


def fit_curve(tokens: ArrayLike, losses: ArrayLike) -> LossCurve:
    """The curves with the least squared distance to the losses, a floor below zero not allowed.

    For a given exponent the other two coefficients follow by linear regression; the exponent is
    searched for between 0.01 and 10 by ever finer grids, for all curves at once.

    Args:
        tokens: the budgets, of shape [budgets].
        losses: of shape [..., budgets], in nats per token.

    Raises:
        ValueError: there are fewer than three different budgets.
    """
    logs = np.log(np.asarray(tokens, float))
    y = np.asarray(losses, float)[..., None, :]
    if len(set(logs.tolist())) < FEWEST_BUDGETS:
        raise ValueError(
            f"a loss curve takes at least {FEWEST_BUDGETS} token budgets, got "
            f"{len(set(logs.tolist()))}: train at more"
        )
    x = logs - logs.mean()
    low, high = (np.full(y.shape[:-2], math.log(end)) for end in _EXPONENTS)
    for _ in range(_ZOOMS):
        grid = np.linspace(low, high, _POINTS, axis=-1)
        _, _, error = _regress(np.exp(-np.exp(grid)[..., None] * x), y)
        best = np.take_along_axis(grid, error.argmin(-1)[..., None], -1)[..., 0]
        step = (high - low) / (_POINTS - 1)
        low, high = np.maximum(best - step, low), np.minimum(best + step, high)
    exponent = np.exp(best)
    floor, scale, _ = _regress(np.exp(-exponent[..., None, None] * x), y)
    return LossCurve(floor[..., 0], scale[..., 0], exponent, math.exp(logs.mean()))


def _regress(basis: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """Floor, scale, both at least 0, and squared error over the last axis."""
    centred = basis - basis.mean(-1, keepdims=True)
    scale = (centred * y).sum(-1) / (centred**2).sum(-1)
    floor = y.mean(-1) - scale * basis.mean(-1)
    floor, scale = (
        np.where(scale < 0, y.mean(-1), np.maximum(floor, 0.0)),
        np.where(floor < 0, (basis * y).sum(-1) / (basis**2).sum(-1), np.maximum(scale, 0.0)),
    )
    error = (floor[..., None] + scale[..., None] * basis - y) ** 2
    return floor, scale, error.sum(-1)
