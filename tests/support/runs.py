"""What a run has left in its folder, to compare with another's."""

from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from train.records.lines import EvalRecord, StepRecord, read_records


def arrays_in(run: Path, step: int) -> dict[str, np.ndarray]:
    """Parameters and optimizer state of a checkpoint, by their paths."""
    leaves = {}
    for item in ("params", "opt_state"):
        checkpointer = ocp.PyTreeCheckpointer()
        folder = (run / "checkpoints" / str(step) / item).absolute()
        saved = checkpointer.metadata(folder).item_metadata.tree
        on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
        tree = checkpointer.restore(folder, restore_args=on_host)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            leaves[f"{item}{jax.tree_util.keystr(path)}"] = np.asarray(leaf)
    return leaves


def numbers_in(run):
    """Every loss that was recorded, in order."""
    records = read_records(run / "records.jsonl")
    return [(type(r), r.step, r.loss) for r in records if isinstance(r, StepRecord | EvalRecord)]
