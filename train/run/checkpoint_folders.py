"""A run's checkpoints on the disk: one folder a step, which is there whole or not at all.

A save is written under another name. It gets the digests of its files, then the step's name, and
then the oldest goes: a crash at any moment leaves the checkpoints before it. What happens to a
checkpoint later (a flipped bit, a lost file) its digests tell.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from train.host.digests import DamageError, check_seal, seal
from train.host.files import sync_folder

T = TypeVar("T")
_log = logging.getLogger(__name__)
_STEP = re.compile(r"0|[1-9][0-9]*")
_UNFINISHED = "saving-"


class CheckpointError(ValueError):
    """A checkpoint that cannot be restored into this run."""


def unfinished(folder: Path, step: int) -> Path:
    """Where a step is written to."""
    return folder / f"{_UNFINISHED}{step}"


def try_to_begin(folder: Path, step: int) -> None:
    """Makes the folder that a step would be written to, and removes it again.

    Orbax makes it in the background, and threads of its own wait minutes for one that a failing
    disk will never have.
    """
    unfinished(folder, step).mkdir()
    unfinished(folder, step).rmdir()


def finish(folder: Path, step: int, keep: int) -> None:
    """Turns what was written into a checkpoint, and leaves the newest `keep` of them."""
    seal(unfinished(folder, step))
    # The records lie beside the folder: where the power goes, their name must not go alone.
    sync_folder(folder.parent)
    os.rename(unfinished(folder, step), folder / str(step))
    sync_folder(folder)
    for old in steps(folder)[:-keep]:
        # Under the other name: one that is removed by half must not pass for a damaged one.
        os.rename(folder / str(old), unfinished(folder, old))
    discard_unfinished(folder)


def discard_unfinished(folder: Path) -> None:
    """Removes what has no step's name; what cannot be removed now, the next save tries again."""
    if folder.exists():
        for name in os.listdir(folder):
            if name.startswith(_UNFINISHED):
                _remove(folder / name)


def steps(folder: Path) -> list[int]:
    """Steps that there are checkpoints of, whole or damaged, in ascending order."""
    names = os.listdir(folder) if folder.exists() else []
    return sorted(int(name) for name in names if _STEP.fullmatch(name))


def newest_whole(folder: Path) -> int | None:
    """The newest step whose files are what was written, or None where nothing was saved.

    Damaged ones that are newer are said so and moved aside: the run will save these steps again.

    Raises:
      CheckpointError: If all are damaged; nothing is moved.
    """
    damaged: dict[int, str] = {}
    for step in reversed(steps(folder)):
        what = damage(folder, step)
        if what:
            damaged[step] = what
            continue
        for bad, what in damaged.items():
            aside = _move_aside(folder / str(bad))
            _log.warning(
                f"{folder}: checkpoint {bad} is damaged ({what}) and kept as {aside.name}; going "
                f"on from {step}"
            )
        return step
    if damaged:
        damages = ", ".join(f"{step} ({what})" for step, what in damaged.items())
        raise CheckpointError(
            f"{folder} holds no whole checkpoint, only damaged ones: {damages}. Put a copy in "
            "their place, or move the folder away to start the run again."
        )
    return None


def read_newest_whole(
    folder: Path, wanted: Callable[[int], bool], read: Callable[[int], T]
) -> T | None:
    """What `read` makes of the newest whole step that is wanted, or None; changes nothing.

    A run that is under way may remove the step while it is read: then another is looked for.
    """
    while True:
        whole = (
            step for step in reversed(steps(folder)) if wanted(step) and not damage(folder, step)
        )
        step = next(whole, None)
        if step is None:
            return None
        try:
            return read(step)
        except Exception:
            if (folder / str(step)).exists():
                raise


def damage(folder: Path, step: int) -> str:
    """What is wrong with a step's files, in words; empty if they are what was written."""
    try:
        check_seal(folder / str(step))
    except DamageError as error:
        return str(error)
    return ""


def _move_aside(path: Path) -> Path:
    names = itertools.chain(("damaged",), (f"damaged-{n}" for n in itertools.count(2)))
    aside = next(new for new in (path.with_suffix(f".{n}") for n in names) if not _is_there(new))
    path.rename(aside)
    return aside


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:  # Such as a file on NFS that somebody reads: no reason to stop.
        _log.warning(f"{path} cannot be removed now ({error.strerror})")
