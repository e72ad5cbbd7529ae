"""The report's figures, as files beside the page and as SVG to stand in it.

Figure 1 is written whole (``figure1.svg``, ``figure1.png``) for a README or a paper; the page takes
its panels one by one, so that a phone can stack them.

The panels of Figure 1 that show curves over training, each drawn on axes that it is given.

Curves over training: the mean over an optimizer's seeds, and the band from lowest to highest.

The panel of a ladder: what each rung gains on AdamW, from the first rung to the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from train.host import units
from train.report import row_panels
from train.report.comparison import ComparedRuns, Group, Run
from train.report.drawing import FOREGROUND, Drawing, Looks, draw_panels, label, looks
from train.report.ladder import against_baseline, rungs
from train.report.row_panels import name_rows
from train.report.statistics import PERCENT

_EARLY = 0.1  # the share of the training whose steep losses are left out of the vertical range


def training(axes: Axes, comparison: ComparedRuns, looks: Looks) -> None:
    """Training loss over tokens; runs that diverged or are under way are thin lines."""
    axes.set_title("Training loss, smoothed")
    lone = [
        (group, run, curve)
        for group in comparison.groups
        for run in (*group.diverged, *group.unfinished)
        if (curve := training_curve([run]))
    ]
    for group, _, curve in lone:
        look = looks[group.key]
        axes.plot(curve.tokens, curve.mean, color=look.color, ls=look.line, lw=0.7, alpha=0.8)
    curves = _curves(comparison, lambda group: training_curve(group.finished))
    # An optimizer without a finished run is labelled at the end of a lone one.
    named = {group: curve for group, _, curve in lone} | curves
    draw_bands(axes, curves, looks)
    _set_view(axes, comparison, named, _EARLY)
    top = axes.get_ylim()[1]
    for group, run, curve in lone:
        if run.diverged:
            finite = np.flatnonzero(np.isfinite(curve.mean))[-1:]
            heights = np.minimum(curve.mean[finite], top)
            axes.plot(
                curve.tokens[finite], heights, "x", color=looks[group.key].color, clip_on=False
            )
    label_ends(axes, named, looks)


def validation(axes: Axes, comparison: ComparedRuns, looks: Looks) -> None:
    """Validation loss over tokens."""
    axes.set_title("Validation loss")
    curves = _curves(comparison, lambda group: validation_curve(group.finished))
    _draw_panel(axes, comparison, curves, looks, leave_out=_EARLY)


def difference(axes: Axes, comparison: ComparedRuns, looks: Looks) -> None:
    """Validation loss minus the baseline's, where curves that lie close come apart."""
    baseline = comparison.baseline
    assert baseline is not None
    axes.set_title(f"Validation loss − {label(baseline.title)}’s, same seed")
    curves = _curves(comparison, lambda group: difference_curve(group, baseline))
    _draw_panel(axes, comparison, curves, looks, leave_out=0.25)


def closing(axes: Axes, comparison: ComparedRuns, looks: Looks) -> None:
    """The last third of the validation loss, where there is no baseline to take differences to."""
    axes.set_title("Validation loss, last third")
    curves = _curves(comparison, lambda group: validation_curve(group.finished))
    _draw_panel(axes, comparison, curves, looks, leave_out=2 / 3)
    axes.set_xlim(2 / 3 * _total(comparison), _total(comparison))


def _curves(
    comparison: ComparedRuns, curve_of: Callable[[Group], Curve | None]
) -> dict[Group, Curve]:
    found = ((group, curve_of(group)) for group in comparison.groups if group.finished)
    return {group: curve for group, curve in found if curve}


def _draw_panel(
    axes: Axes, comparison: ComparedRuns, curves: dict[Group, Curve], looks: Looks, leave_out: float
) -> None:
    draw_bands(axes, curves, looks)
    for group, curve in curves.items():
        look = looks[group.key]
        axes.plot(curve.tokens, curve.mean, look.marker, color=look.color, ms=3)
    _set_view(axes, comparison, curves, leave_out)
    label_ends(axes, curves, looks)


def draw_bands(axes: Axes, curves: dict[Group, Curve], looks: Looks) -> None:
    """Draws each curve's line over its band."""
    for group, curve in curves.items():
        look = looks[group.key]
        axes.fill_between(curve.tokens, curve.low, curve.high, color=look.color, alpha=0.16, lw=0)
        axes.plot(curve.tokens, curve.mean, color=look.color, ls=look.line, lw=look.width)


def _total(comparison: ComparedRuns) -> int:
    return max(run.record.tokens for run in comparison.runs)


def _set_view(
    axes: Axes, comparison: ComparedRuns, curves: dict[Group, Curve], leave_out: float
) -> None:
    """Sets the axes' ranges: all tokens, and the losses after the first share of them."""
    total = _total(comparison)
    late = [
        np.concatenate([curve.low[after], curve.high[after]])
        for curve in curves.values()
        for after in [curve.tokens >= leave_out * total]
    ]
    values = np.concatenate([*late, []])
    values = values[np.isfinite(values)]
    if values.size:
        margin = 0.05 * (np.ptp(values) or 1.0)
        axes.set_ylim(values.min() - margin, values.max() + margin)
    axes.set_xlim(0, total)
    axes.set_xlabel("training tokens")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: units.count(tokens)))
    axes.grid(axis="y")


def label_ends(axes: Axes, curves: dict[Group, Curve], looks: Looks) -> None:
    """Writes each optimizer's name beside its curve's end, moved apart where ends lie close."""
    low, high = axes.get_ylim()
    ends = {
        group: float(np.clip((finite[-1] - low) / (high - low), 0, 1))
        for group, curve in curves.items()
        if (finite := curve.mean[np.isfinite(curve.mean)]).size
    }
    ordered = sorted(ends, key=lambda group: ends[group])
    for group, height in zip(ordered, spread([ends[group] for group in ordered]), strict=True):
        look = looks[group.key]
        axes.plot(
            [1.0, 1.035], [ends[group], height],
            transform=axes.transAxes, color=look.color, lw=0.7, clip_on=False,
        )  # fmt: skip
        axes.text(
            1.045, height, label(group.title),
            transform=axes.transAxes, color=look.color, va="center", fontweight="bold",
        )  # fmt: skip


def spread(heights: list[float], gap: float = 0.068) -> list[float]:
    """Ascending heights between 0 and 1, moved as little as possible to lie ``gap`` apart."""
    if not heights:
        return []
    # Apart by a gap means ascending once the gaps are taken out: an isotonic regression.
    gaps = min(gap, 1 / len(heights)) * np.arange(len(heights))
    moved = isotonic_regression(np.array(heights) - gaps).x
    return list(np.clip(moved, 0, 1 - gaps[-1]) + gaps)


Panel = Callable[[Axes, ComparedRuns, Looks], None]


def draw(comparison: ComparedRuns, folder: Path) -> list[Drawing]:
    """Writes each figure whole as SVG and PNG, and returns their panels for the page."""
    sentences = [
        "Lines are means over the seeds, bands reach from the lowest seed to the highest.",
        "The training loss is a moving average over 4 % of the steps.",
    ]
    if any(group.diverged or group.unfinished for group in comparison.groups):
        sentences.append("Thin lines are runs that diverged (×) or are under way.")
    parts: list[Panel] = [training]
    finished = [group for group in comparison.groups if group.finished]
    if finished:
        compared = comparison.baseline and len(finished) > 1
        late = difference if compared else closing
        parts += [validation, late, row_panels.finals]
        sentences.append(
            f"The last panel shows each optimizer’s mean with its {PERCENT} interval; rings are "
            "single seeds."
        )
    drawings = [
        _draw(comparison, folder, "figure1", "Figure 1. Training dynamics.", sentences, parts)
    ]
    if comparison.ended and comparison.has_step_ratios:
        sentences = [
            "Step time as a ratio to AdamW’s, both timed in turn in one process, and the "
            "optimizer’s state in bytes per parameter of the model."
        ]
        parts = [row_panels.step_ratios, row_panels.state_sizes]
        drawings.append(_draw(comparison, folder, "figure2", "Figure 2. Costs.", sentences, parts))
    if comparison.baseline and rungs(comparison):
        sentences = [
            f"Lines are {PERCENT} intervals of differences paired by seed; a dot is on rungs that "
            "Table 3 tells apart from AdamW."
        ]
        title = "Figure 3. Rung by rung."
        drawings.append(_draw(comparison, folder, "figure3", title, sentences, [against_adamw]))
    return drawings


def _draw(
    comparison: ComparedRuns,
    folder: Path,
    key: str,
    title: str,
    sentences: Sequence[str],
    parts: Sequence[Panel],
) -> Drawing:
    look = looks(comparison.groups)
    bound = [lambda axes, part=part: part(axes, comparison, look) for part in parts]
    return draw_panels(folder, key, title, " ".join(sentences), bound)


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


def against_adamw(axes: Axes, comparison: ComparedRuns, looks: Looks) -> None:
    """Every rung's validation loss minus AdamW's, paired by seed, with its interval."""
    axes.set_title("Validation loss − AdamW’s, same seed")
    axes.axvline(0, color=FOREGROUND, lw=0.6, ls=":")
    against = against_baseline(comparison)
    for height, group in enumerate(rungs(comparison)):
        pair, color = against.get(group.key), looks[group.key].color
        if pair:
            difference = pair.difference
            axes.plot([difference.low, difference.high], [height] * 2, color=color, lw=1.6)
            marker, size = ("o", 5.5) if pair.told_apart else ("|", 9)
            axes.plot(difference.mean, height, marker, color=color, ms=size, mew=1.6)
    name_rows(axes, rungs(comparison), looks)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("nats per token")
