"""The tables of a tuning: ranks by budget, the best settings of each optimizer, and CSV of trials.

Ranks are by what a budget of k trials is worth: the expected best loss, and a band around it. One
who tunes by random search tries the defaults first and then points of the search space in any
order. Over all orders of the trials that were run, the best of the first k has a mean that needs no
simulation: it follows from the order statistics of sampling without replacement. A best-of-N alone
would hide how much luck and how many trials it took.

References:
  Dodge et al., 2019, "Show your work: improved reporting of experimental results".
  Tang et al., 2020, "Showing your work doesn't always work": why without replacement.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import comb

from train.host import units
from train.optimizers.dimensions import Choices
from train.records.tuning import TunedOptimizer
from train.report.comparison import diverged
from train.report.statistics import CONFIDENCE, PERCENT
from train.report.table import Cell, Column, Table, show_number
from train.report.tuning.trials import TuningResults, search_space


class Edge(NamedTuple):
    """The best of an optimizer lies at an edge of a dimension."""

    optimizer: str
    field: str
    side: str
    """`lower` or `upper`."""
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"The best of {self.optimizer} lies at the {self.side} edge of {self.field} "
            f"({self.value:g} in {self.low:g} to {self.high:g}): widen the space."
        )


def edges(tuned: TunedOptimizer) -> Iterator[Edge]:
    """The edges that the best trial lies at.

    N trials lie about 1/N of a range apart. Nearer to an edge than that, the best may well be on
    the slope of a valley whose bottom is outside. Where N is small, a tenth of the range counts as
    near: more trials are the cure, and not a wider space.
    """
    if tuned.best is None:
        return
    near = min(1 / len(tuned.trials), 0.1)
    for dimension in search_space(tuned):
        if isinstance(dimension, Choices):
            continue
        value = tuned.best.settings[dimension.field]
        place = dimension.place(value)
        if place < near or place > 1 - near:
            side = "lower" if place < 0.5 else "upper"
            yield Edge(tuned.key, dimension.field, side, value, dimension.low, dimension.high)


_SMALL = 4  # trials: what a busy person spends on a new optimizer


@dataclass(frozen=True, kw_only=True)
class Standing:
    """An optimizer at one budget: its expected best loss, the band, and its rank."""

    trials: int
    loss: float
    low: float
    high: float
    rank: int


def search_curves(results: TuningResults) -> dict[str, SearchCurve]:
    """The curve of each ranked optimizer, by its key."""
    curves = {}
    for tuned in results.ranked:
        default, *others = (trial.gained for trial in tuned.trials)
        curves[tuned.key] = search_curve(default, others)
    return curves


def budgets(results: TuningResults) -> list[int]:
    """The numbers of trials to rank at: the defaults alone, a few, all."""
    return sorted({1, min(_SMALL, results.budget), results.budget})


def ranks_table(results: TuningResults, curves: Mapping[str, SearchCurve]) -> Table:
    """Every optimizer's expected best loss and rank at each budget."""
    standings = {number: _standings(curves, number) for number in budgets(results)}

    def divergence(tuned: TunedOptimizer) -> str:
        return diverged(len(tuned.diverged), len(tuned.trials))

    def loss(number: int) -> Column:
        return Column(
            "N = 1, defaults" if number == 1 else f"N = {number}",
            lambda tuned: standings[number][tuned.key],
            _show_standing,
        )

    def rank(number: int) -> Column:
        return Column(
            "Rank", lambda tuned: standings[number][tuned.key].rank, name=f"rank_{number}"
        )

    return Table(
        key="tuning_ranks",
        title="Table 1. Loss and rank by tuning budget",
        caption=(
            "Expected best validation loss, in nats per token, of N trials: the defaults at the "
            "papers’ rate of 3e-4, and N − 1 of the others in random order. Beside each the "
            f"bootstrap’s {PERCENT} band over trials. All trials are of the same steps, data and "
            "seed."
        ),
        columns=(
            Column("Optimizer", lambda tuned: tuned.title, is_text=True, detail=divergence),
            *(column for number in standings for column in (loss(number), rank(number))),
        ),
        rows=results.ranked,
    )


def best_table(results: TuningResults) -> Table:
    """The best settings of each optimizer."""
    return Table(
        key="tuning_best",
        title="Table 2. The best settings found",
        caption=(
            f"Of {results.planned} trials of each optimizer. The loss is the lowest of many on one "
            "seed and flatters: a comparison over other seeds tells what the settings are worth."
        ),
        columns=(
            Column("Optimizer", lambda tuned: tuned.title, is_text=True),
            Column("Val. loss", lambda tuned: tuned.best and tuned.best.loss, _show_loss),
            Column(
                "Bits/byte", lambda tuned: tuned.best and tuned.best.final.bits_per_byte, _show_loss
            ),
            Column("Trial", lambda tuned: tuned.best and tuned.best.number),
            Column(
                "Settings",
                lambda tuned: tuned.best.settings if tuned.best else {},
                _show_settings,
                is_text=True,
                detail=_edges,
            ),
        ),
        rows=results.tuned,
    )


def _standings(curves: Mapping[str, SearchCurve], number: int) -> dict[str, Standing]:
    places = ranks({name: float(curve.expected[number - 1]) for name, curve in curves.items()})
    return {
        name: Standing(
            trials=number,
            loss=float(curve.expected[number - 1]),
            low=float(curve.low[number - 1]),
            high=float(curve.high[number - 1]),
            rank=places[name],
        )
        for name, curve in curves.items()
    }


def _show_standing(standing: Standing) -> Cell:
    band = f"{units.number(standing.low, 3)}–{units.number(standing.high, 3)}"
    return Cell(units.number(standing.loss, 3), band if standing.trials > 1 else "")


def _show_settings(settings: Mapping[str, Any]) -> Cell:
    shown = ", ".join(
        f"{field} {value:g}" if isinstance(value, float) else f"{field} {value}"
        for field, value in settings.items()
    )
    return Cell(shown or "no trial with a usable loss")


def _edges(tuned: TunedOptimizer) -> str:
    at = ", ".join(f"{edge.field} at the {edge.side} edge" for edge in edges(tuned))
    return f"({at})" if at else ""


def _show_loss(value: float | None) -> Cell:
    return show_number(value, lambda loss: units.number(loss, 4))


def trials_csv(results: TuningResults) -> str:
    """Every trial that has ended, one a line: its settings and its loss.

    A trial that diverged has an infinite loss, which CSV readers know as `inf`.
    """
    fields = dict.fromkeys(
        dimension.field for tuned in results.tuned for dimension in search_space(tuned)
    )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["optimizer", "trial", *fields, "val_loss", "diverged"])
    for tuned in results.tuned:
        for trial in tuned.trials:
            settings = [trial.settings.get(field, "") for field in fields]
            outcome = [trial.loss, str(trial.run.diverged).lower()]
            writer.writerow([tuned.key, trial.number, *settings, *outcome])
    return text.getvalue()


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
      losses: Finite losses of shape [..., N].

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
      default: The first trial's loss.
      others: The losses of the others; finite.
      seed: Of the bootstrap.

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
      rates: Positive, in any order.
      losses: Finite, one for each rate.

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
