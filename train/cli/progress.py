"""What the terminal shows meanwhile: how far training or preparing is, rates and time left."""

from __future__ import annotations

import contextlib
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

from train.data import Done
from train.experiments.sharing import Observer
from train.host.units import plain
from train.records.lines import FinalRecord
from train.run.loop import Progress


class RunDisplay(Observer):
    """A progress bar over all steps of one run or of many.

    On a terminal it is redrawn in place; elsewhere (a log file) only finished runs print a line.

    Args:
      console: Where to draw.
      total_steps: Steps of all runs together.
    """

    def __init__(self, console: Console, total_steps: int) -> None:
        self._console = console
        self._bars = _bars(console)
        self._task: TaskID = self._bars.add_task("training", total=total_steps, status="")
        self._total, self._done = total_steps, 0
        self._before_run: int | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        _stop(self._bars)

    def run_found(self, name: str, steps: int, final: FinalRecord) -> None:
        """A run that an earlier call finished: its steps are not ahead of this one."""
        self._leave_out(steps)
        self._print(name, final)

    def run_started(self, name: str) -> None:
        """A run begins, or goes on; before its first step it is compiled."""
        self._before_run = None
        self._bars.update(self._task, description=name, status="compiling")

    def run_progress(self, progress: Progress) -> None:
        """A step of the current run is done."""
        if self._before_run is None:  # What a checkpoint holds was done by an earlier call.
            self._leave_out(progress.step - 1)
            self._before_run = self._done - (progress.step - 1)
        self._done = self._before_run + progress.step
        self._bars.update(
            self._task,
            completed=self._done,
            status=f"loss {progress.loss:.3f}  val {progress.val_loss:.3f}  "
            f"{progress.tokens_per_second:,.0f} tok/s",
        )

    def run_ended(self, name: str, steps: int, final: FinalRecord) -> None:
        """A run is finished; one that got stuck leaves out the steps that it never made."""
        self._leave_out(steps - final.step)
        self._print(name, final)

    def costs_progress(self, done: int, rounds: int) -> None:
        """A round of the cost measurement is done."""
        self._bars.update(
            self._task, description="step times in turn", status=f"round {done} of {rounds}"
        )

    def _leave_out(self, steps: int) -> None:
        self._total -= steps
        self._bars.update(self._task, total=self._total)

    def _print(self, name: str, final: FinalRecord) -> None:
        outcome = "diverged" if final.diverged else f"validation loss {final.val_loss:.4f}"
        mark = plain("✗", "red") if final.diverged else plain("✓", "green")
        self._console.print(mark + plain(f" {name:<16} {outcome}"))


class PrepareDisplay:
    """A progress bar over the files of a source.

    Args:
      console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._bars = _bars(console)
        self._task = self._bars.add_task("preparing", total=None, status="reading")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        _stop(self._bars)

    def progress(self, done: Done) -> None:
        """Some documents more are done, or a file is."""
        self._bars.update(
            self._task,
            completed=done.parts,
            total=done.of_parts,
            status=f"{done.documents:,} documents  {done.text_bytes / 1e6:,.0f} MB",
        )


def _stop(bars: Bars) -> None:
    with contextlib.suppress(OSError):  # The terminal may be gone, and the work is not lost for it.
        bars.stop()


def _bars(console: Console) -> Bars:
    return Bars(
        TextColumn("{task.description}", style="bold", markup=False),
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
