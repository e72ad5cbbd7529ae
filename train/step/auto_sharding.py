"""Parts of a train step whose shardings the compiler infers, on explicit axes too.

With `--mesh.axes explicit` every sharding is part of a type and JAX asks for each that it finds
ambiguous. Loss and gradient are one island, as the model is; their results, and with them update,
state and metrics, are checked by types.
"""

from __future__ import annotations

from typing import Any

import jax
import optax

from models.sharding import automatic


def specs(tree: Any) -> Any:
    """The PartitionSpecs that arrays under trace have as part of their types."""
    return jax.tree.map(lambda leaf: jax.typeof(leaf).sharding.spec, tree)


def inferred_update(
    transformation: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Leaves the shardings inside an optimizer's update to the compiler, whatever the axes.

    For optimizers with products, or rows and columns of state, for which explicit axes would ask
    how to shard each; updates and state leave the island as gradients and state came.

    Args:
      transformation: The optimizer.
    """
    inner = optax.with_extra_args_support(transformation)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        island = automatic(
            lambda *arguments: inner.update(*arguments, **extra), specs((updates, state))
        )
        return island(updates, state, params)

    return optax.GradientTransformationExtraArgs(inner.init, update)
