"""Whether a checkpoint is of this run: configuration, data, seed and step; and its arrays' names.

Orbax itself checks none of it: it would restore another run's state, and cast what differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from train.run.checkpoint_folders import CheckpointError

_WHAT = {
    "config_hash": "configuration",
    "fingerprint": "text, tokenizer or packing",
    "seed": "seed",
}
"""What differs where an entry does."""


def check_identity(folder: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuses a checkpoint of another run.

    Args:
      folder: Where the run's checkpoints are.
      saved: What one of them says of itself.
      wanted: What the run says of itself.

    Raises:
      CheckpointError: Naming the first entry that differs.
    """
    for key, ours in wanted.items():
        theirs = saved.get(key)
        if theirs != ours:
            what = _WHAT[key]
            raise CheckpointError(
                f"{folder} holds a checkpoint of another {what} ({key}={theirs!r:.14}, and "
                f"this run has {ours!r:.14}): choose another --out, or run it with the {what} "
                "of its making."
            )


def check_step(checkpoint: Path, saved: Mapping[str, Any]) -> None:
    """Refuses a checkpoint with the name of another step, as a copy made by hand may have.

    Args:
      checkpoint: Its folder.
      saved: What it says of itself.

    Raises:
      CheckpointError: Naming the step whose state it holds.
    """
    step = saved.get("step")
    if step != int(checkpoint.name):
        raise CheckpointError(
            f"{checkpoint} holds the state of step {step!r:.20}: give it that name, or remove it."
        )


def array_difference(saved: Any, wanted: Any) -> str | None:
    """What a checkpoint and a run disagree on first, in words; None if they agree.

    Args:
      saved: A tree of whatever has a shape and a dtype: what the checkpoint holds.
      wanted: Likewise: what the run restores onto. Named tuples and dicts stand for each other.

    Example:
      >>> three, four = jax.ShapeDtypeStruct((3,), "float32"), jax.ShapeDtypeStruct((4,), "float32")
      >>> array_difference({"w": three}, {"w": four})
      'w was saved with the shape (3,) and this run has (4,).'
      >>> array_difference({"w": three}, {"w": three})
    """
    theirs, ours = leaves_by_path(saved, "/"), leaves_by_path(wanted, "/")
    for name in sorted(theirs.keys() | ours.keys()):
        if difference := _difference(theirs.get(name), ours.get(name)):
            return f"{name} {difference}"
    return None


def leaves_by_path(tree: Any, separator: str) -> dict[str, Any]:
    """The leaves of a tree by their paths.

    Example:
      >>> leaves_by_path({"mlp": {"up": 1, "down": 2}}, ".")
      {'mlp.down': 2, 'mlp.up': 1}
    """
    leaves = jax.tree.leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator=separator): leaf for path, leaf in leaves
    }


def _difference(saved: Any, wanted: Any) -> str | None:
    if saved is None:
        return "was not saved and this run has it: go on with the code that saved the rest."
    if wanted is None:
        return "was saved and this run has no such array: go on with the code that saved it."
    if saved.shape != wanted.shape:
        return f"was saved with the shape {saved.shape} and this run has {wanted.shape}."
    if saved.dtype != wanted.dtype:  # Orbax would cast it.
        return (
            f"was saved as {saved.dtype} and this run uses {wanted.dtype}: convert the checkpoint "
            "rather than cast it silently."
        )
    return None
