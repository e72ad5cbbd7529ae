"""What lies in a run's folder: `config.json`, `records.jsonl`, `checkpoints/`; and whose it is."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from train.atomic import write_whole
from train.config import RunConfig, first_difference, to_dict
from train.locking import locked
from train.records import FinalRecord, read_records

CONFIG = "config.json"
RECORDS = "records.jsonl"
LOCK = ".lock"


def claim(folder: Path, config: RunConfig) -> None:
    """Writes the resolved configuration into a folder, or checks that it is there already.

    Raises:
      ValueError: If the folder holds a run of another configuration; nothing is changed.
    """
    check_owner(folder / CONFIG, config)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder / CONFIG, config)


class BusyError(ValueError):
    """Another process is writing into a run's folder."""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing into a run's folder, until this one is done or dies.

    Raises:
      BusyError: If another process is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / LOCK, wait=False))
        except BlockingIOError as error:
            raise BusyError(
                f"another process is writing into {folder}: wait for it, stop it, or choose "
                "another --out."
            ) from error
        yield


def is_busy(folder: Path) -> bool:
    """Whether another process is writing into a run's folder."""
    try:
        with held(folder):
            return False
    except BusyError:
        return True


def finished(folder: Path, config: RunConfig) -> FinalRecord | None:
    """The final record of this configuration's run in the folder, or None if it has not ended.

    Raises:
      ValueError: If the folder holds a run of another configuration.
    """
    check_owner(folder / CONFIG, config)
    if not (folder / RECORDS).exists():
        return None
    records = read_records(folder / RECORDS)
    return next((record for record in records if isinstance(record, FinalRecord)), None)


def check_owner(path: Path, config: object) -> None:
    """Refuses a file that holds another configuration.

    Raises:
      ValueError: Naming the first setting that differs.
    """
    if not path.exists():
        return
    difference = first_difference(to_dict(config), json.loads(path.read_text()))
    if difference:
        raise ValueError(
            f"{path.parent} holds another configuration ({difference}): choose another --out, "
            "or move that folder away."
        )


def write_config(path: Path, config: object) -> None:
    """Writes a configuration as JSON; a crash leaves a whole file or none."""
    write_whole(path, json.dumps(to_dict(config), indent=2).encode() + b"\n")
