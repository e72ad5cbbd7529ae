"""What a run has left in its folder, to compare with another's."""

import jax
import numpy as np
import orbax.checkpoint as ocp

from train.records import EvalRecord, StepRecord, read_records


def arrays_in(run, step):
    """All parameters and state in a step's checkpoint."""
    with ocp.PyTreeCheckpointer() as reader:
        checkpoint = run / "checkpoints" / str(step)
        items = [reader.restore(checkpoint / name) for name in ("params", "opt_state")]
    return jax.tree.map(np.asarray, items)


def numbers_in(run):
    """Every loss that was recorded, in order."""
    records = read_records(run / "records.jsonl")
    return [(type(r), r.step, r.loss) for r in records if isinstance(r, StepRecord | EvalRecord)]
