"""The program that every benchmark here looks at: one update, applied and donated."""

from typing import Any

import jax
import optax


def jitted_step(tx: optax.GradientTransformation) -> Any:
    """From parameters, state and gradients to new parameters and state, in the old ones' memory."""

    def step(params: Any, state: Any, gradients: Any) -> tuple[Any, Any]:
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


def compiled_step(
    tx: optax.GradientTransformation, shapes: Any, device: jax.Device | None = None
) -> jax.stages.Compiled:
    """The same ahead of time, for a device that need not exist."""
    sharding = None if device is None else jax.sharding.SingleDeviceSharding(device)

    def placed(tree: Any) -> Any:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )

    state = jax.eval_shape(tx.init, shapes)
    return jitted_step(tx).trace(placed(shapes), placed(state), placed(shapes)).lower().compile()
