"""The panel of a ladder: what each rung gains on AdamW, from the first rung to the last."""

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from train.report.comparison import Comparison
from train.report.ladder import ladder_table, rungs
from train.report.row_panels import name_rows
from train.report.style import FOREGROUND, Looks


def against_adamw(axes: Axes, comparison: Comparison, looks: Looks) -> None:
    """Every rung's validation loss minus AdamW's, paired by seed, with its interval."""
    axes.set_title("Validation loss − AdamW’s, same seed")
    axes.axvline(0, color=FOREGROUND, lw=0.6, ls=":")
    for height, row in enumerate(ladder_table(comparison).rows):
        color = looks[row.optimizer].color
        if row.against:
            found = row.against.difference
            axes.plot([found.low, found.high], [height] * 2, color=color, lw=1.6)
            marker, size = ("o", 5.5) if row.against.told_apart else ("|", 9)
            axes.plot(found.mean, height, marker, color=color, ms=size, mew=1.6)
    name_rows(axes, rungs(comparison), looks)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("nats per token")
