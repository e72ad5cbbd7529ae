"""Before speeds are compared: do the programs compute the same?

Options under which two optimizers are one and the same formula must give the same updates.
"""

import jax
import numpy as np
import optax

from benchmarks.parts.contenders import RATE, Make, adamw, bare_aardvark, clipped_adamw
from benchmarks.parts.update import random_tree
from optax_strat import MULTIPLIERS, aardvark, stratopt

SHAPES = {name: jax.ShapeDtypeStruct((32, 16), np.float32) for name in ("embed", "mlp", "head")}
UNIT = dict.fromkeys(MULTIPLIERS, 1.0)

PAIRS: dict[str, tuple[Make, Make]] = {
    "aardvark without clip, guard and multipliers": (
        adamw,
        lambda: bare_aardvark(multipliers=UNIT),
    ),
    "aardvark without multipliers": (clipped_adamw, lambda: aardvark(RATE, multipliers=UNIT)),
    "stratopt with a scale of 1": (
        adamw,
        lambda: stratopt(RATE, layer_clip=None, scale_bounds=(1.0, 1.0), bias_correction=True),
    ),
}


def disagreements(tolerance: float = 1e-6, steps: int = 3) -> list[str]:
    """Names the pairs whose updates differ by more, relative to the largest update."""
    return [name for name, pair in PAIRS.items() if _difference(*pair, steps) > tolerance]


def _difference(one: Make, other: Make, steps: int) -> float:
    ours, theirs = _updates(one(), steps), _updates(other(), steps)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _updates(tx: optax.GradientTransformation, steps: int) -> np.ndarray:
    """The updates of all steps and leaves in one long vector."""
    params, update, seen = random_tree(SHAPES, 0), jax.jit(tx.update), []
    state = tx.init(params)
    for seed in range(1, steps + 1):
        updates, state = update(random_tree(SHAPES, seed), state, params)
        params = optax.apply_updates(params, updates)
        seen += [np.ravel(leaf) for leaf in jax.tree.leaves(updates)]
    return np.concatenate(seen)
