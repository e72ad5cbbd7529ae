"""What lies in a run's folder: `config.json`, `records.jsonl`, `checkpoints/`; and whose it is."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.config.plain import first_difference, on_any_mesh, to_dict
from train.config.run import RunConfig
from train.host.disk import FULL, disk_explained
from train.host.files import locked, write_whole
from train.host.typed_json import read_json
from train.records.lines import FinalRecord, read_records

_log = logging.getLogger(__name__)

CONFIG = "config.json"
RECORDS = "records.jsonl"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"
"""Held by the process that writes into the folder."""
TAKEN = ".taken"
"""Held by the worker that trains the run as one of an experiment's, from before it is compiled."""
IMPORTED = "weights.json"
"""Whose parameters a run began with, where they are not its seed's (`train.run.transfer`)."""


def check_writable(folder: Path) -> None:
    """Tries whether a run can be written into a folder; leaves nothing there.

    Args:
      folder: A run's, which need not exist.

    Raises:
      ValueError: If it cannot, by permissions or because the disk is read-only.
      DiskError: If there is no room for one more file.
    """
    try:
        # A try, since root passes every permission and a full disk has none to look at.
        for place in (folder, folder / CHECKPOINTS):
            with tempfile.TemporaryFile(dir=_nearest(place)):
                pass
        for file in (folder / RECORDS, folder / LOCK, folder / TAKEN):
            if file.exists():
                file.open("ab").close()
    except OSError as error:
        with disk_explained(folder):
            if error.errno in FULL:
                raise
        raise ValueError(
            f"{folder} cannot be written to ({error.strerror}): choose another --out, or have it "
            "made writable."
        ) from error


def _nearest(path: Path) -> Path:
    """The path itself, or the folder above it that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


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
def held(folder: Path, lock: str = LOCK) -> Iterator[None]:
    """Keeps other processes from writing into a run's folder, until this one is done or dies.

    Args:
      folder: The run's, made if missing.
      lock: `LOCK`, or `TAKEN` to keep only other workers of an experiment away.

    Raises:
      BusyError: If another process is at work in it.
      ValueError: If it cannot be written to.
      DiskError: If there is no room for it.
    """
    check_writable(folder)
    with contextlib.ExitStack() as stack:
        try:
            with disk_explained(folder):
                folder.mkdir(parents=True, exist_ok=True)
                refuse_links(folder)
                if not stack.enter_context(locked(folder / lock, wait=False)):
                    _log.warning(
                        "no file can be locked in %s: see that nobody else writes there", folder
                    )
        except BlockingIOError as error:
            raise BusyError(
                f"another process is writing into {folder}: wait for it, stop it, or choose "
                "another --out."
            ) from error
        yield


@dataclass(frozen=True)
class Imported:
    """Whose parameters a run began with: of which file, and what that says of itself."""

    sha256: str
    config_hash: str
    step: int


def imported_weights(folder: Path) -> str:
    """The SHA-256 of the file of parameters that the run began with; empty for those of its seed.

    Raises:
      ValueError: If the note of it is damaged.
    """
    path = folder / IMPORTED
    return read_json(path, Imported).sha256 if path.exists() else ""


def refuse_links(folder: Path) -> None:
    """Refuses to write through a symbolic link in a folder.

    Raises:
      ValueError: Naming the first there is.
    """
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            raise ValueError(
                f"{path} is a symbolic link, and what is written to it would go elsewhere: put the "
                "file itself there, or choose another --out."
            )


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
    """Refuses a file that holds another configuration; another mesh is none.

    Raises:
      ValueError: Naming the first setting that differs.
    """
    if not path.exists():
        return
    theirs = on_any_mesh(read_json(path, dict[str, Any]))
    difference = first_difference(on_any_mesh(to_dict(config)), theirs)
    if difference:
        raise ValueError(
            f"{path.parent} holds another configuration ({difference}): choose another --out, "
            "or move that folder away."
        )


def write_config(path: Path, config: object) -> None:
    """Writes a configuration, or another dataclass, as JSON; a crash leaves a whole file or none.

    Raises:
      DiskError: If there is no room.
    """
    with disk_explained(path.parent):
        write_whole(path, json.dumps(to_dict(config), indent=2).encode() + b"\n")
