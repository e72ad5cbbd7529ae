"""Optional writers beside a run's records: TensorBoard, trackio, Weights & Biases offline.

The records are what a run leaves behind and what every report reads; a tracker is a second look at
the same numbers while they are made. Each is imported when it is asked for, and none is needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from train.records.kinds import EvalRecord, FinalRecord, RunRecord, StepRecord

TrackerName = Literal["tensorboard", "trackio", "wandb"]
PROJECT = "optax_strat"

_PACKAGES = {"tensorboard": "tensorboardX", "trackio": "trackio", "wandb": "wandb"}


class Tracker(Protocol):
    """Takes the numbers of a run as they come."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name, such as `train/loss`, after a step."""

    def close(self) -> None:
        """Writes out what is left."""


def open_tracker(name: TrackerName, folder: Path, run: RunRecord, after_step: int) -> Tracker:
    """Opens a tracker for a run.

    Args:
      name: Which one.
      folder: The run's, in which TensorBoard's and W&B's files go; trackio has a folder for all
        runs, see its TRACKIO_DIR.
      run: The run's first record.
      after_step: The step that training goes on from; the tracker keeps what came before, as far
        as it can.

    Raises:
      ValueError: If there is no such tracker or its package is not installed.
    """
    if name not in get_args(TrackerName):
        names = ", ".join(get_args(TrackerName))
        raise ValueError(f"there is no tracker {name!r}: choose among {names}.")
    try:
        return _OPEN[name](folder, run, after_step)
    except ImportError as error:
        raise ValueError(
            f"the tracker {name!r} needs a package ({error}): pip install {_PACKAGES[name]}"
        ) from error


def numbers(record: StepRecord | EvalRecord | FinalRecord) -> dict[str, float]:
    """What trackers show of a record: its numbers by name.

    Example:
      >>> numbers(EvalRecord(step=5, tokens=640, loss=2.0, bits_per_byte=2.9, seconds=1.0))
      {'val/tokens': 640.0, 'val/loss': 2.0, 'val/bits_per_byte': 2.9, 'val/seconds': 1.0}
    """
    prefix = {StepRecord: "train", EvalRecord: "val", FinalRecord: "final"}[type(record)]
    return dict(_numbers(prefix, record))


def _numbers(prefix: str, record: Any) -> Iterator[tuple[str, float]]:
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, dict):
            yield from ((f"{field.name}/{key}", float(norm)) for key, norm in value.items())
        elif isinstance(value, int | float) and field.name != "step":
            yield f"{prefix}/{field.name}", float(value)


class _TensorBoard:
    def __init__(self, folder: Path, run: RunRecord, after_step: int) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=after_step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Trackio:
    def __init__(self, folder: Path, run: RunRecord, after_step: int) -> None:
        import trackio

        self._module = trackio
        trackio.init(
            PROJECT, name=_name(run), config=dataclasses.asdict(run), resume="allow", embed=False
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._module.log(dict(values), step=step)

    def close(self) -> None:
        self._module.finish()


class _WeightsAndBiases:
    """Offline: `wandb sync FOLDER/wandb/offline-run-*` uploads, if and when somebody wants that."""

    def __init__(self, folder: Path, run: RunRecord, after_step: int) -> None:
        import wandb

        self._run = wandb.init(
            project=PROJECT,
            name=run.name,
            id=_name(run),
            dir=str(folder),
            config=dataclasses.asdict(run),
            mode="offline",
            resume="allow",
            settings=wandb.Settings(silent=True),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


_OPEN: dict[TrackerName, Callable[[Path, RunRecord, int], Tracker]] = {
    "tensorboard": _TensorBoard,
    "trackio": _Trackio,
    "wandb": _WeightsAndBiases,
}


def _name(run: RunRecord) -> str:
    return f"{run.name}-{run.config_hash}"
