"""The report's figures, as files beside the page and as SVG to stand in it.

Figure 1 is written whole (``figure1.svg``, ``figure1.png``) for a README or a paper; the page takes
its panels one by one, so that a phone can stack them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from train.report import panels, row_panels
from train.report.comparison import Comparison
from train.report.drawing import Drawing, draw_panels
from train.report.ladder import rungs
from train.report.ladder_panel import against_adamw
from train.report.statistics import PERCENT
from train.report.style import Looks, looks

Panel = Callable[[Axes, Comparison, Looks], None]


def draw(comparison: Comparison, folder: Path) -> list[Drawing]:
    """Writes each figure whole as SVG and PNG, and returns their panels for the page."""
    sentences = [
        "Lines are means over the seeds, bands reach from the lowest seed to the highest.",
        "The training loss is a moving average over 4 % of the steps.",
    ]
    if any(group.diverged or group.unfinished for group in comparison.groups):
        sentences.append("Thin lines are runs that diverged (×) or are under way.")
    parts: list[Panel] = [panels.training]
    finished = [group for group in comparison.groups if group.finished]
    if finished:
        compared = comparison.baseline and len(finished) > 1
        late = panels.difference if compared else panels.closing
        parts += [panels.validation, late, row_panels.finals]
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
    comparison: Comparison,
    folder: Path,
    key: str,
    title: str,
    sentences: Sequence[str],
    parts: Sequence[Panel],
) -> Drawing:
    look = looks(comparison.groups)
    bound = [lambda axes, part=part: part(axes, comparison, look) for part in parts]
    return draw_panels(folder, key, title, " ".join(sentences), bound)
