"""Aardvark's multipliers by layer type."""

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import optax

from optax_strat import _layer_types
from optax_strat._layer_types import LayerType

MULTIPLIERS: dict[str, float] = {
    "embedding": 1.0,
    "attention": 1.5,
    "mlp": 1.2,
    "head": 1.8,
    "norm": 1.0,
    "other": 1.0,
}
"""Equation 1 of the Aardvark paper. Norms, biases and unnamed parameters, which it leaves out, have
1."""


def warn_if_tied(
    scales: optax.GradientTransformationExtraArgs,
    multipliers: Mapping[str, float] | None,
    layer_types: _layer_types.LayerTypes,
) -> optax.GradientTransformationExtraArgs:
    """Warns at ``init`` where the head's multiplier applies to nothing.

    A tied head leaves no trace among the parameters but its absence: there is an embedding and no
    head. Asked for by name, the head's multiplier warns without an embedding too.
    """
    asked = multipliers is not None and LayerType.head in multipliers

    def init(params: Any) -> Any:
        kinds = set(jax.tree.leaves(_layer_types.labeler(layer_types, unmatched="other")(params)))
        tied = multipliers is None and LayerType.embedding in kinds
        if kinds and LayerType.head not in kinds and (asked or tied):
            warnings.warn(
                "No parameter is an output head, so the head's multiplier applies to nothing. If "
                "the head is tied, the embedding's multiplier applies to it; for the head's, pass "
                "multipliers={'embedding': ...}.",
                stacklevel=2,
            )
        return scales.init(params)

    return optax.GradientTransformationExtraArgs(init, scales.update)
