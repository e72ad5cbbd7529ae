"""The panels of Figure 1 that show curves over training, each drawn on axes that it is given."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from scipy.optimize import isotonic_regression

from train.host import units
from train.report.comparison import Comparison, Group
from train.report.curves import Curve, difference_curve, training_curve, validation_curve
from train.report.style import Looks, label

_EARLY = 0.1  # the share of the training whose steep losses are left out of the vertical range


def training(axes: Axes, comparison: Comparison, looks: Looks) -> None:
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


def validation(axes: Axes, comparison: Comparison, looks: Looks) -> None:
    """Validation loss over tokens."""
    axes.set_title("Validation loss")
    curves = _curves(comparison, lambda group: validation_curve(group.finished))
    _draw_panel(axes, comparison, curves, looks, leave_out=_EARLY)


def difference(axes: Axes, comparison: Comparison, looks: Looks) -> None:
    """Validation loss minus the baseline's, where curves that lie close come apart."""
    baseline = comparison.baseline
    assert baseline is not None
    axes.set_title(f"Validation loss − {label(baseline.title)}’s, same seed")
    curves = _curves(comparison, lambda group: difference_curve(group, baseline))
    _draw_panel(axes, comparison, curves, looks, leave_out=0.25)


def closing(axes: Axes, comparison: Comparison, looks: Looks) -> None:
    """The last third of the validation loss, where there is no baseline to take differences to."""
    axes.set_title("Validation loss, last third")
    curves = _curves(comparison, lambda group: validation_curve(group.finished))
    _draw_panel(axes, comparison, curves, looks, leave_out=2 / 3)
    axes.set_xlim(2 / 3 * _total(comparison), _total(comparison))


def _curves(
    comparison: Comparison, curve_of: Callable[[Group], Curve | None]
) -> dict[Group, Curve]:
    found = ((group, curve_of(group)) for group in comparison.groups if group.finished)
    return {group: curve for group, curve in found if curve}


def _draw_panel(
    axes: Axes, comparison: Comparison, curves: dict[Group, Curve], looks: Looks, leave_out: float
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


def _total(comparison: Comparison) -> int:
    return max(run.record.tokens for run in comparison.runs)


def _set_view(
    axes: Axes, comparison: Comparison, curves: dict[Group, Curve], leave_out: float
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
