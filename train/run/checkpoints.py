"""Checkpoints through Orbax: asynchronous saves, exact restores, refusal of what does not fit.

A checkpoint has four items: `params` and `opt_state` (arrays), `data` (the position: step, seed and
the data set's fingerprint) and `meta` (hash of the configuration, training time so far). None
holds code.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from train.config.plain import config_hash
from train.config.run import RunConfig
from train.host.allocator import give_back_freed_memory
from train.host.disk import check_room, disk_explained
from train.run.agreement import DAY_MS, from_first
from train.run.checkpoint_checks import array_difference, check_identity, check_step
from train.run.checkpoint_folders import (
    CheckpointError,
    discard_unfinished,
    finish,
    newest_whole,
    read_newest_whole,
    steps,
    try_to_begin,
    unfinished,
)
from train.run.folder import CHECKPOINTS
from train.run.training_clock import Spent
from train.step.state import TrainState


class Restored(NamedTuple):
    """What a checkpoint held."""

    state: TrainState
    spent: Spent
    """Training time up to the checkpoint."""


class Checkpointer:
    """Saves and restores one run's state under one folder.

    Among several processes, which share the folder, each saves and restores its part of the arrays;
    the first one names, checks and removes checkpoints.

    Args:
      folder: Where the checkpoints live; made if missing.
      config_hash: Names the run's configuration; a checkpoint of another one is refused.
      fingerprint: Names the prepared data set; likewise.
      seed: The run's seed, kept with the data position.
      keep: Newest checkpoints kept.

    Raises:
      CheckpointError: If the folder is a symbolic link.
    """

    def __init__(
        self, folder: Path, *, config_hash: str, fingerprint: str, seed: int, keep: int = 2
    ) -> None:
        if folder.is_symlink():
            raise CheckpointError(
                f"{folder} is a symbolic link, and what it leads to may be another run's: choose "
                "an --out on the disk where the checkpoints should be."
            )
        self._identity = {"config_hash": config_hash, "fingerprint": fingerprint, "seed": seed}
        self._folder, self._keep = folder.absolute(), keep
        self._is_first = jax.process_index() == 0
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(
                params=_array_handler(),
                opt_state=_array_handler(),
                data=ocp.JsonCheckpointHandler(),
                meta=ocp.JsonCheckpointHandler(),
            ),
            # By itself Orbax gives a save up after twenty minutes, which a slow disk may take.
            timeout_secs=DAY_MS // 1000,
        )
        self._background = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._saving: Future[None] | None = None
        logging.getLogger("absl").addFilter(_is_not_raised)

    def latest_step(self) -> int | None:
        """Step of the newest finished checkpoint, whole or not, or None."""
        return max(steps(self._folder), default=None)

    def save(self, step: int, state: TrainState, spent: Spent) -> None:
        """Starts an asynchronous save; returns as soon as the state may be donated again.

        Raises:
          DiskError: If the disk is full or fails, or did with the save before.
        """
        self.wait()
        give_back_freed_memory()  # What the last save left splits the room of a step's temporaries.
        with disk_explained(self._folder):
            if self._is_first:
                self._folder.mkdir(parents=True, exist_ok=True)
                discard_unfinished(self._folder)
                check_room(self._folder, sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
                try_to_begin(self._folder, step)
            self._orbax.save(
                unfinished(self._folder, step),
                args=ocp.args.Composite(
                    params=ocp.args.PyTreeSave(state.params),
                    opt_state=ocp.args.PyTreeSave(state.opt_state),
                    data=ocp.args.JsonSave(
                        {key: self._identity[key] for key in ("fingerprint", "seed")}
                        | {"step": step}
                    ),
                    meta=ocp.args.JsonSave(
                        {"config_hash": self._identity["config_hash"], **spent._asdict()}
                    ),
                ),
            )
        self._saving = self._background.submit(self._finish, step)

    def restore(self, target: TrainState) -> Restored | None:
        """The newest whole checkpoint, laid out as `target`, or None if there is none.

        Damaged ones that are newer are said so and moved aside (`train.run.checkpoint_folders`).

        Args:
          target: Abstract state: shapes, dtypes and shardings to restore onto.

        Raises:
          CheckpointError: If it was written by another configuration or data set, or if a name, a
            shape or a dtype differs (Orbax would cast silently), or if all are damaged.
        """
        step = self._newest_whole()
        return None if step is None else self._restore(step, target)

    def restore_before(self, step: int, target: TrainState) -> Restored | None:
        """The newest whole checkpoint of a step before this one, or None; nothing is moved.

        Args:
          step: As said.
          target: As for `restore`.

        Raises:
          CheckpointError: As for `restore`, but for damage.
        """
        return read_newest_whole(
            self._folder, lambda saved: saved < step, lambda saved: self._restore(saved, target)
        )

    def wait(self) -> None:
        """Returns when the save under way, if there is one, is on the disk.

        Raises:
          DiskError: If the disk was full or failed; the checkpoints before it stay.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            with disk_explained(self._folder):
                saving.result()

    def close(self) -> None:
        """Waits for the save under way and ends the threads."""
        try:
            self.wait()
        finally:
            self._background.shutdown()
            self._orbax.close()

    def _restore(self, step: int, target: TrainState) -> Restored:
        folder = self._folder / str(step)
        notes = self._orbax.restore(
            folder,
            args=ocp.args.Composite(data=ocp.args.JsonRestore(), meta=ocp.args.JsonRestore()),
        )
        notes = notes["data"] | notes["meta"]
        check_identity(self._folder, notes, self._identity)
        check_step(folder, notes)
        self._check_arrays(folder, target)
        arrays = self._orbax.restore(
            folder,
            args=ocp.args.Composite(
                params=_restore_onto(target.params), opt_state=_restore_onto(target.opt_state)
            ),
        )
        position = jax.device_put(np.asarray(step, target.step.dtype), target.step.sharding)
        state = TrainState(position, arrays["params"], arrays["opt_state"])
        return Restored(state, Spent(*(float(notes[name]) for name in Spent._fields)))

    def _finish(self, step: int) -> None:
        try:
            self._orbax.wait_until_finished()
            with _others_waiting(f"{self._folder / str(step)} is saved"):
                if self._is_first:
                    finish(self._folder, step, self._keep)
        except Exception:
            # Half a checkpoint is of no use, and its room may be. Orbax may still write into it.
            if self._is_first:
                discard_unfinished(self._folder)
            raise

    def _newest_whole(self) -> int | None:
        """Looked for by the first process, for all."""
        step, refusal = None, ""
        with _others_waiting("newest whole"):
            if self._is_first:
                try:
                    step = newest_whole(self._folder)
                except CheckpointError as error:
                    refusal = str(error)
        step, refusal = json.loads(from_first(json.dumps([step, refusal]).encode()))
        if refusal:
            raise CheckpointError(refusal)
        return step

    def _check_arrays(self, folder: Path, target: TrainState) -> None:
        saved = self._orbax.metadata(folder).item_metadata
        for item in ("params", "opt_state"):
            difference = array_difference(saved[item].tree, getattr(target, item))
            if difference:
                raise CheckpointError(f"{folder}: {item}/{difference}")


def run_checkpointer(folder: Path, config: RunConfig, fingerprint: str) -> Checkpointer:
    """The checkpoints of a run, in its folder, on the data of a fingerprint."""
    return Checkpointer(
        folder / CHECKPOINTS,
        config_hash=config_hash(config),
        fingerprint=fingerprint,
        seed=config.seed,
    )


@contextmanager
def _others_waiting(key: str) -> Iterator[None]:
    """Keeps the other processes waiting while the first is at work."""
    try:
        yield
    finally:
        # Patient, as a collective is not: reading all of a checkpoint takes a while.
        ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=DAY_MS)


def _array_handler() -> ocp.PyTreeCheckpointHandler:
    # Trained numbers hardly compress: an eighth fewer bytes would take several times as long.
    return ocp.PyTreeCheckpointHandler(use_compression=False)


def _restore_onto(target: Any) -> ocp.args.PyTreeRestore:
    return ocp.args.PyTreeRestore(
        target, restore_args=ocp.checkpoint_utils.construct_restore_args(target)
    )


def _is_not_raised(record: logging.LogRecord) -> bool:
    """Whether a log record is all that is heard of it: Orbax's threads also raise their errors."""
    return not record.exc_info
