"""The program that every benchmark of an optimizer looks at: one update, applied and donated."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.parts import trees
from benchmarks.parts.contenders import CONTENDERS
from benchmarks.parts.stepping import Run
from train.host import provenance


@dataclass(frozen=True)
class Updating:
    """A program for `stepping`: updates of one optimizer on one tree."""

    name: str
    """One of `CONTENDERS`."""
    tree: str
    size: trees.Size

    def __call__(self) -> tuple[Run, str]:
        """Compiles it; says on which device."""
        shapes = trees.tree(self.tree, self.size)
        tx = CONTENDERS[self.name].make()
        params, gradients = random_tree(shapes, 0), random_tree(shapes, 1)
        state, step = jax.jit(tx.init)(params), jitted_step(tx)

        def run(steps: int) -> None:
            nonlocal params, state
            for _ in range(steps):
                params, state = step(params, state, gradients)
            jax.block_until_ready((params, state))

        run(2)
        return run, provenance.device()


@dataclass(frozen=True)
class Copying:
    """The program that measures what memory can do: it copies an array as large as a tree."""

    tree: str
    size: trees.Size

    def __call__(self) -> tuple[Run, str]:
        """Compiles it; says on which device."""
        source = jnp.ones((trees.count(trees.tree(self.tree, self.size)),), jnp.float32)
        target = jnp.zeros_like(source)
        copy = jax.jit(lambda source, _: jnp.copy(source), donate_argnums=1, keep_unused=True)

        def run(steps: int) -> None:
            nonlocal target
            for _ in range(steps):
                target = copy(source, target)
            jax.block_until_ready(target)

        run(2)
        return run, provenance.device()


def random_tree(shapes: Any, seed: int) -> Any:
    """Normal numbers of standard deviation 0.02, as in a tree of shapes."""
    rng = np.random.default_rng(seed)  # Of NumPy: nothing to compile.
    return jax.tree.map(
        lambda x: jnp.asarray(np.float32(0.02) * rng.standard_normal(x.shape, np.float32)), shapes
    )


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
