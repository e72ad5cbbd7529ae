"""What the terminal shows while training goes on: progress, rates and time left."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from train.loop import Progress


class RunDisplay:
    """A progress bar over all steps of one run or of many.

    On a terminal it is redrawn in place; elsewhere (a log file) only finished runs print a line.

    Args:
      console: Where to draw.
      total_steps: Steps of all runs together.
    """

    def __init__(self, console: Console, total_steps: int) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            expand=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._bars.add_task("training", total=total_steps, status="")
        self._before = 0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def run_started(self, name: str) -> None:
        """A run begins, or goes on; before its first step it is compiled."""
        self._bars.update(self._task, description=name, status="compiling")

    def run_progress(self, progress: Progress) -> None:
        """A step of the current run is done."""
        self._bars.update(
            self._task,
            completed=self._before + progress.step,
            status=f"loss {progress.loss:.3f}  val {progress.val_loss:.3f}  "
            f"{progress.tokens_per_second:,.0f} tok/s",
        )

    def run_ended(self, name: str, steps: int, outcome: str) -> None:
        """A run is finished, now or in an earlier call."""
        self._before += steps
        self._bars.update(self._task, completed=self._before)
        self._console.print(f"[green]✓[/] {name:<16} {outcome}", highlight=False)

    def costs_progress(self, done: int, rounds: int) -> None:
        """A round of the cost measurement is done."""
        self._bars.update(
            self._task, description="step times in turn", status=f"round {done} of {rounds}"
        )
