"""Whether a checkpoint's arrays are those of a run: the same names, shapes and dtypes."""

from __future__ import annotations

from typing import Any

import jax


def first_difference(saved: Any, wanted: Any) -> str | None:
    """What a checkpoint and a run disagree on first, in words; None if they agree.

    Args:
      saved: A tree of whatever has a shape and a dtype: what the checkpoint holds.
      wanted: Likewise: what the run restores onto. Named tuples and dicts stand for each other.

    Example:
      >>> three, four = jax.ShapeDtypeStruct((3,), "float32"), jax.ShapeDtypeStruct((4,), "float32")
      >>> first_difference({"w": three}, {"w": four})
      'w was saved with the shape (3,) and this run has (4,).'
      >>> first_difference({"w": three}, {"w": three})
    """
    theirs, ours = named_leaves(saved, "/"), named_leaves(wanted, "/")
    for name in sorted(theirs.keys() | ours.keys()):
        if difference := _difference(theirs.get(name), ours.get(name)):
            return f"{name} {difference}"
    return None


def named_leaves(tree: Any, separator: str) -> dict[str, Any]:
    """The leaves of a tree by their paths.

    Example:
      >>> named_leaves({"mlp": {"up": 1, "down": 2}}, ".")
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
