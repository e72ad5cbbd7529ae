"""The trees of parameters that the benchmarks update: a language model's, as shapes.

Stacked and unstacked hold the same numbers in 11 and in 115 leaves. The third has 500 leaves of a
narrow and deep model: there the cost of a leaf shows, and not that of a parameter.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

Size = Literal["full", "small", "tiny"]
"""133 million parameters (14 in 500 leaves), about a tenth of that, and next to nothing."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """A language model with a plain MLP four times as wide, and no biases."""

    layers: int
    width: int
    vocab: int


WIDE: Mapping[Size, Shape] = {
    "full": Shape(layers=14, width=640, vocab=50_304),
    "small": Shape(layers=14, width=192, vocab=8_192),
    "tiny": Shape(layers=14, width=16, vocab=64),
}
DEEP: Mapping[Size, Shape] = {
    "full": Shape(layers=62, width=128, vocab=8_192),
    "small": Shape(layers=62, width=48, vocab=1_024),
    "tiny": Shape(layers=62, width=8, vocab=64),
}

TREES = ("stacked", "unstacked", "many")
"""11, 115 and 500 leaves."""


def tree(name: str, size: Size = "full") -> Any:
    """A tree of `ShapeDtypeStruct`, all float32, by its name in `TREES`."""
    match name:
        case "stacked":
            return _around(WIDE[size], _layer(WIDE[size].width, (WIDE[size].layers,)))
        case "unstacked":
            return _around(WIDE[size], _layers(WIDE[size]))
        case "many":
            shape = DEEP[size]
            positions = {"embedding": _array(1024, shape.width)}
            return {"position_embed": positions, **_around(shape, _layers(shape))}
    raise ValueError(f"There is no tree {name!r}: choose one of {', '.join(TREES)}.")


def count(tree: Any) -> int:
    """The number of parameters in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _around(shape: Shape, layers: Any) -> dict[str, Any]:
    return {
        "embed": {"embedding": _array(shape.vocab, shape.width)},
        "layers": layers,
        "final_norm": {"scale": _array(shape.width)},
        "head": {"kernel": _array(shape.width, shape.vocab)},
    }


def _layers(shape: Shape) -> list[Any]:
    return [_layer(shape.width) for _ in range(shape.layers)]


def _layer(width: int, stack: tuple[int, ...] = ()) -> dict[str, Any]:
    def kernel(rows: int, columns: int) -> dict[str, Any]:
        return {"kernel": _array(*stack, rows, columns)}

    return {
        "attention_norm": {"scale": _array(*stack, width)},
        "attention": {name: kernel(width, width) for name in ("query", "key", "value", "out")},
        "mlp_norm": {"scale": _array(*stack, width)},
        "mlp": {"up": kernel(width, 4 * width), "down": kernel(4 * width, width)},
    }


def _array(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)
