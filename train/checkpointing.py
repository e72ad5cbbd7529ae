"""Checkpoints through Orbax: asynchronous saves, exact restores, refusal of what does not fit.

A checkpoint has four items: `params` and `opt_state` (arrays), `data` (the position: step, seed and
the data set's fingerprint) and `meta` (hash of the configuration, training seconds so far).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from train.state import TrainState

_WHAT = {
    "config_hash": "configuration",
    "fingerprint": "text, tokenizer or packing",
    "seed": "seed",
}
"""What differs where an entry of a checkpoint's identity does."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be restored into this run."""


class Restored(NamedTuple):
    """What a checkpoint held."""

    state: TrainState
    seconds: float
    """Training seconds spent up to the checkpoint."""


class Checkpointer:
    """Saves and restores one run's state under one folder.

    Args:
      folder: Where the checkpoints live; made if missing.
      config_hash: Names the run's configuration; a checkpoint of another one is refused.
      fingerprint: Names the prepared data set; likewise.
      seed: The run's seed, kept with the data position.
      keep: Newest checkpoints kept.
    """

    def __init__(
        self, folder: Path, *, config_hash: str, fingerprint: str, seed: int, keep: int = 2
    ) -> None:
        self._identity = {"config_hash": config_hash, "fingerprint": fingerprint, "seed": seed}
        self._folder = folder
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            # Named here so that a new process can read an item's metadata before restoring it.
            item_handlers={
                "params": _array_handler(),
                "opt_state": _array_handler(),
                "data": ocp.JsonCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
            ),
        )

    def latest_step(self) -> int | None:
        """Step of the newest finished checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, seconds: float) -> None:
        """Starts an asynchronous save; returns as soon as the state may be donated again."""
        if self._manager.latest_step() == step:
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.PyTreeSave(state.params),
                opt_state=ocp.args.PyTreeSave(state.opt_state),
                data=ocp.args.JsonSave(
                    {key: self._identity[key] for key in ("fingerprint", "seed")} | {"step": step}
                ),
                meta=ocp.args.JsonSave(
                    {"config_hash": self._identity["config_hash"], "seconds": seconds}
                ),
            ),
        )

    def restore(self, target: TrainState) -> Restored | None:
        """The newest checkpoint, laid out as `target`, or None if there is none.

        Args:
          target: Abstract state: shapes, dtypes and shardings to restore onto.

        Raises:
          CheckpointError: If it was written by another configuration or data set, or if a dtype
            differs (Orbax would cast silently).
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        notes = self._manager.restore(
            step, args=ocp.args.Composite(data=ocp.args.JsonRestore(), meta=ocp.args.JsonRestore())
        )
        self._check_identity(notes["data"] | notes["meta"])
        self._check_dtypes(step, target)
        arrays = self._manager.restore(
            step,
            args=ocp.args.Composite(
                params=_restore_onto(target.params), opt_state=_restore_onto(target.opt_state)
            ),
        )
        position = jax.device_put(np.asarray(step, target.step.dtype), target.step.sharding)
        state = TrainState(position, arrays["params"], arrays["opt_state"])
        return Restored(state, float(notes["meta"]["seconds"]))

    def wait(self) -> None:
        """Returns when the save under way, if there is one, is on the disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the save under way and ends the threads."""
        self.wait()
        self._manager.close()

    def _check_identity(self, found: dict[str, Any]) -> None:
        for key, ours in self._identity.items():
            if found[key] != ours:
                what = _WHAT[key]
                raise CheckpointError(
                    f"{self._folder} holds a checkpoint of another {what} ({key}="
                    f"{str(found[key])[:12]}, and this run has {str(ours)[:12]}): choose another "
                    f"--out, or run it with the {what} of its making."
                )

    def _check_dtypes(self, step: int, target: TrainState) -> None:
        metadata = self._manager.item_metadata(step)
        for item in ("params", "opt_state"):
            saved = {path: leaf.dtype for path, leaf in _named_leaves(metadata[item].tree)}
            for path, leaf in _named_leaves(getattr(target, item)):
                if saved.get(path, leaf.dtype) != leaf.dtype:
                    raise CheckpointError(
                        f"{self._folder}: {item}/{path} was saved as {saved[path]} and this run "
                        f"uses {leaf.dtype}: convert the checkpoint rather than cast it silently."
                    )


def _array_handler() -> ocp.PyTreeCheckpointHandler:
    # Trained numbers hardly compress: an eighth fewer bytes would take several times as long.
    return ocp.PyTreeCheckpointHandler(use_compression=False)


def _restore_onto(target: Any) -> ocp.args.PyTreeRestore:
    return ocp.args.PyTreeRestore(
        target, restore_args=ocp.checkpoint_utils.construct_restore_args(target)
    )


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]
