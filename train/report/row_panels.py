"""The panels with one row per optimizer: final losses with intervals, and costs."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from train.report.comparison import ComparedRuns, Group
from train.report.drawing import FOREGROUND, Looks, label
from train.report.statistics import PERCENT


def finals(axes: Axes, comparison: ComparedRuns, looks: Looks) -> None:
    """Every seed's final validation loss, their mean and its interval."""
    axes.set_title(f"Final validation loss, {PERCENT} intervals")
    for height, group in enumerate(comparison.ended):
        look = looks[group.key]
        losses = [final.val_loss for final in group.finals.values()]
        estimate = group.val_loss
        if estimate:
            axes.plot([estimate.low, estimate.high], [height] * 2, color=look.color, lw=1.6)
            axes.plot(estimate.mean, height, look.marker, color=look.color, ms=5.5)
            rings = [height + 0.3] * len(losses)  # below the line, where nothing hides them
            axes.plot(losses, rings, "o", mec=look.color, mfc="none", mew=0.8, ms=3.2)
        if group.diverged:
            axes.text(
                1.02, height, f"{len(group.diverged)} diverged",
                transform=axes.get_yaxis_transform(), va="center", fontsize=7.5, fontstyle="italic",
            )  # fmt: skip
    name_rows(axes, comparison.ended, looks)
    axes.set_xlabel("nats per token; rings are seeds")


def step_ratios(axes: Axes, comparison: ComparedRuns, looks: Looks) -> None:
    """Step time over the baseline's: median and quartiles over the rounds."""
    axes.set_title("Step time ÷ AdamW’s")
    axes.axvline(1, color=FOREGROUND, lw=0.6, ls=":")
    for height, group in enumerate(comparison.ended):
        look, cost = looks[group.key], group.cost
        if cost:
            axes.plot([cost.ratio_low, cost.ratio_high], [height] * 2, color=look.color, lw=1.6)
            axes.plot(cost.step_ratio, height, look.marker, color=look.color, ms=6)
    name_rows(axes, comparison.ended, looks)
    axes.set_xlabel("median and quartiles")


def state_sizes(axes: Axes, comparison: ComparedRuns, looks: Looks) -> None:
    """Bytes of optimizer state per parameter."""
    axes.set_title("Optimizer state")
    for height, group in enumerate(comparison.ended):
        value = group.state_bytes_per_parameter
        if value is not None:
            axes.barh(height, value, height=0.5, color=looks[group.key].color)
            axes.annotate(
                f"{value:.3g}", (value, height), (4, 0), textcoords="offset points", va="center"
            )
    name_rows(axes, comparison.ended, looks)
    axes.set_xlabel("bytes per parameter")


def name_rows(axes: Axes, groups: Sequence[Group], looks: Looks) -> None:
    """Names the rows on the left, the first on top."""
    axes.set_yticks(range(len(groups)), [label(group.title) for group in groups])
    for text, group in zip(axes.get_yticklabels(), groups, strict=True):
        text.set_color(looks[group.key].color)
        text.set_fontweight("bold")
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.margins(x=0.12)
