"""A run's checkpoints on the disk: one folder a step, which is there whole or not at all.

A save is written under another name. It gets the digests of its files, then the step's name, and
then the oldest goes: a crash at any moment leaves the checkpoints before it. What happens to a
checkpoint later (a flipped bit, a lost file) its digests tell.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import shutil
from pathlib import Path

from train.atomic import sync_folder
from train.digests import DamageError, check_seal, seal

_log = logging.getLogger(__name__)
_STEP = re.compile(r"0|[1-9][0-9]*")
_UNFINISHED = "saving-"


class CheckpointError(ValueError):
    """A checkpoint that cannot be restored into this run."""


def unfinished(folder: Path, step: int) -> Path:
    """Where a step is written to."""
    return folder / f"{_UNFINISHED}{step}"


def finish(folder: Path, step: int, keep: int) -> None:
    """Turns what was written into a checkpoint, and leaves the newest `keep` of them."""
    seal(unfinished(folder, step))
    os.rename(unfinished(folder, step), folder / str(step))
    sync_folder(folder)
    for old in steps(folder)[:-keep]:
        # Under the other name: one that is removed by half must not pass for a damaged one.
        os.rename(folder / str(old), unfinished(folder, old))
        _remove(unfinished(folder, old))


def discard_unfinished(folder: Path) -> None:
    """Removes what saves that did not come to their end have left behind."""
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
        try:
            check_seal(folder / str(step))
        except DamageError as error:
            damaged[step] = str(error)
            continue
        for bad, what in damaged.items():
            aside = _move_aside(folder / str(bad))
            _log.warning(
                f"{folder}: checkpoint {bad} is damaged ({what}) and kept as {aside.name}; going "
                f"on from {step}"
            )
        return step
    if damaged:
        found = ", ".join(f"{step} ({what})" for step, what in damaged.items())
        raise CheckpointError(
            f"{folder} holds no whole checkpoint, only damaged ones: {found}. Put a copy in their "
            "place, or move the folder away to start the run again."
        )
    return None


def newest_whole_before(folder: Path, step: int) -> int | None:
    """The newest step before this one whose files are what was written, or None; changes nothing.

    A run that is under way may meanwhile remove what was found.
    """
    for earlier in reversed(steps(folder)):
        if earlier < step:
            with contextlib.suppress(DamageError, FileNotFoundError):
                check_seal(folder / str(earlier))
                return earlier
    return None


def _move_aside(path: Path) -> Path:
    names = itertools.chain(("damaged",), (f"damaged-{n}" for n in itertools.count(2)))
    aside = next(new for new in (path.with_suffix(f".{n}") for n in names) if not _is_there(new))
    path.rename(aside)
    return aside


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
