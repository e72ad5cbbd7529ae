"""Whose state a checkpoint says it holds: of which run, on which data, after which step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.run.checkpoint_folders import CheckpointError

_WHAT = {
    "config_hash": "configuration",
    "fingerprint": "text, tokenizer or packing",
    "seed": "seed",
}
"""What differs where an entry does."""


def check_identity(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuses a checkpoint of another run.

    Args:
      folder: Where the run's checkpoints are.
      found: What one of them says of itself.
      wanted: What the run says of itself.

    Raises:
      CheckpointError: Naming the first entry that differs.
    """
    for key, ours in wanted.items():
        theirs = found.get(key)
        if theirs != ours:
            what = _WHAT[key]
            raise CheckpointError(
                f"{folder} holds a checkpoint of another {what} ({key}={theirs!r:.14}, and "
                f"this run has {ours!r:.14}): choose another --out, or run it with the {what} "
                "of its making."
            )


def check_step(checkpoint: Path, found: Mapping[str, Any]) -> None:
    """Refuses a checkpoint with the name of another step, as a copy made by hand may have.

    Args:
      checkpoint: Its folder.
      found: What it says of itself.

    Raises:
      CheckpointError: Naming the step whose state it holds.
    """
    step = found.get("step")
    if step != int(checkpoint.name):
        raise CheckpointError(
            f"{checkpoint} holds the state of step {step!r:.20}: give it that name, or remove it."
        )
