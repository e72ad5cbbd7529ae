"""What a step moves through memory, counted in the compiled program and not timed.

``optax.adamw`` is the measure. A norm costs one more read of the gradient, 4 bytes a parameter;
guard, clip, scaling and multipliers ride along in passes that are made anyway.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from optax_strat import aardvark, decays, stratopt

PARAMS = {
    "embed": jax.ShapeDtypeStruct((512, 128), jnp.float32),
    "layers": {"mlp": jax.ShapeDtypeStruct((4, 128, 256), jnp.float32)},
    "head": jax.ShapeDtypeStruct((128, 512), jnp.float32),
}
SIZE = sum(x.size for x in jax.tree.leaves(PARAMS))


def traffic(tx: optax.GradientTransformation) -> tuple[float, float]:
    """Bytes accessed and temporary bytes, per parameter, of a donated step on this machine."""

    def step(params: Any, state: Any, gradients: Any) -> tuple[Any, Any]:
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    shapes = PARAMS, jax.eval_shape(tx.init, PARAMS), PARAMS
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*shapes).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    return compiled.cost_analysis()["bytes accessed"] / SIZE, temporary / SIZE


@pytest.fixture(scope="module")
def adamw() -> float:
    return traffic(optax.adamw(0.1, weight_decay=0.1, mask=decays))[0]


@pytest.mark.parametrize(
    ("tx", "extra"),
    [
        (aardvark(0.1, clip=None, nonfinite=None), 0.0),
        (aardvark(0.1, clip=None), 4.0),
        (aardvark(0.1), 4.0),
        (aardvark(0.1, scaling="normalized", clip_mode="per_tensor"), 4.0),
        (stratopt(0.1), 4.0),
        (stratopt(0.1, layer_clip=None), 4.0),
        (stratopt(0.1, nonfinite="skip"), 4.0),
        (stratopt(0.1, stratum="block"), 4.0),
    ],
    ids=[
        "aardvark without clip and guard",
        "aardvark without clip",
        "aardvark",
        "aardvark, normalized, clipped by tensor",
        "stratopt",
        "stratopt without clip",
        "stratopt, guarded",
        "stratopt by block",
    ],
)
def test_a_norm_is_all_that_a_step_costs_beyond_adamw(
    adamw: float, tx: optax.GradientTransformation, extra: float
) -> None:
    moved, temporary = traffic(tx)
    assert moved <= adamw + extra + 0.1
    assert temporary < 0.1
