"""What a donated step of an optimizer moves through memory, counted in the compiled program."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

PARAMS = {
    "embed": jax.ShapeDtypeStruct((4096, 256), jnp.float32),
    "layers": {"mlp": jax.ShapeDtypeStruct((4, 256, 1024), jnp.float32)},
    "head": jax.ShapeDtypeStruct((256, 4096), jnp.float32),
}


def traffic(tx: optax.GradientTransformation) -> tuple[float, float]:
    """Bytes accessed and temporary bytes, per parameter, of a donated step on this machine."""

    def step(params: Any, state: Any, gradients: Any) -> tuple[Any, Any]:
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(tx.init, PARAMS)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(PARAMS, state, PARAMS).compile()
    size = sum(math.prod(x.shape) for x in jax.tree.leaves(PARAMS))
    temporary = compiled.memory_analysis().temp_size_in_bytes
    accessed = compiled.cost_analysis()["bytes accessed"] / size - 4 * overflow_branches(compiled)
    return accessed, temporary / size


def overflow_branches(compiled: jax.stages.Compiled, operation: str = "conditional") -> int:
    """Branches that add up squares again where they overflow, or an operation's number in them.

    There are some on CPUs alone; XLA counts what they would read as if they were always taken.
    """
    text = compiled.as_text()
    assert text is not None
    if operation == "conditional":
        return text.count(" conditional(")
    branches = set(re.findall(r"(?:true|false)_computation=%?([\w.-]+)", text))
    for names in re.findall(r"branch_computations={([^}]*)}", text):
        branches.update(name.strip().lstrip("%") for name in names.split(","))
    bodies = re.findall(r"^%?([\w.-]+) [^\n]*{\n(.*?)^}", text, re.MULTILINE | re.DOTALL)
    return sum(
        len(re.findall(rf" {operation}(?:-start)?\(", body))
        for name, body in bodies
        if name in branches
    )
