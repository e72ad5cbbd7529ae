"""Small parameter trees that the library's tests share: one model, stacked and not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LAYERS = 2
WIDTH = 8


def model(dtype: Any = np.float32, seed: int = 0) -> dict[str, Any]:
    """A language model in small, with stacked layers and the names that Flax gives."""
    rng = np.random.default_rng(seed)

    def array(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), dtype)

    return {
        "embed": {"embedding": array(16, WIDTH)},
        "layers": {
            "attention_norm": {"scale": array(LAYERS, WIDTH)},
            "attention": {
                "query": {"kernel": array(LAYERS, WIDTH, 2, 4)},
                "out": {"kernel": array(LAYERS, 2, 4, WIDTH)},
            },
            "mlp": {
                "up": {"kernel": array(LAYERS, WIDTH, 24)},
                "down": {"kernel": array(LAYERS, 24, WIDTH)},
            },
        },
        "final_norm": {"scale": array(WIDTH)},
        "head": {"kernel": array(WIDTH, 16)},
    }


def unstack(tree: dict[str, Any]) -> dict[str, Any]:
    """The same model with its layers in a list."""
    layers = [jax.tree.map(lambda x, i=i: x[i], tree["layers"]) for i in range(LAYERS)]
    return {**tree, "layers": layers}


def restack(tree: dict[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`unstack`."""
    return {**tree, "layers": jax.tree.map(lambda *xs: jnp.stack(xs), *tree["layers"])}


def by_path(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a tree of dicts and lists, in float64, by paths such as ``layers/0/mlp``."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x, np.float64)
        for path, x in flat
    }


def gradients(like: Any, steps: int, seed: int = 1) -> Any:
    """Random gradients for some steps, whose sizes differ a thousandfold by layer and step."""
    rng = np.random.default_rng(seed)

    def several(x: jax.Array) -> jax.Array:
        size = 10.0 ** rng.uniform(-2, 1, size=(steps, *x.shape[:1]))
        size = size.reshape(size.shape + (1,) * (x.ndim - 1))
        return jnp.asarray(rng.normal(size=(steps, *x.shape)) * size, x.dtype)

    return jax.tree.map(several, like)
