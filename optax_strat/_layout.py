"""Where the layers are in a tree of parameters: which leaves are stacked, and along which axis.

A *layer* is one parameter tensor, and in a model whose layers are stacked (``[L, ...]`` leaves run
by ``lax.scan``) each slice of a stacked leaf. Layouts are static: made of paths and shapes alone.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optax_strat import _paths

Stacked = Sequence[str] | Mapping[str, int] | None
"""Names of the containers whose leaves are stacked (along the first axis), or a mapping of them to
the axis of the layers. None means :data:`DEFAULT_STACKED`; ``()`` means that nothing is stacked."""

DEFAULT_STACKED: tuple[str, ...] = (
    "layers",
    "blocks",
    # MaxText's DeepSeek, big_vision, Haiku's `layer_stack`.
    "dense_layers",
    "moe_layers",
    "encoderblock",
    "__layer_stack_no_per_layer",
    "__layer_stack_with_per_layer",
)
"""Containers taken as stacked where no index follows their name (``layers/mlp/up/kernel``, and not
``layers/0/mlp/up/kernel``) and all arrays in them have the same leading size. Where they have not,
but all have the same second one, as in MaxText, they are stacked along that."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf's place among the layers of a tree."""

    name: str
    """Its path."""
    block: str
    """The path of its block: of the stacked container, or of the numbered layer that it is in."""
    start: int
    """The number of its first layer."""
    count: int
    """How many layers it holds."""
    axis: int | None
    """The axis of the layers; None where the leaf is one layer."""

    @property
    def stop(self) -> int:
        """The number after its last layer."""
        return self.start + self.count

    def entries(self, stem: str) -> list[str]:
        """A name for each of its layers: the stem, with an index where the leaf is stacked."""
        if self.axis is None:
            return [stem]
        return [f"{stem}[{index}]" for index in range(self.count)]


def layout(tree: Any, stacked: Stacked = None) -> tuple[Leaf, ...]:
    """Finds the layers of every leaf of a tree, in JAX's order of the leaves.

    Args:
      tree: parameters, gradients or shapes.
      stacked: which containers hold stacked leaves.

    Raises:
      ValueError: ``stacked`` is a string, has a negative axis, or names a container whose arrays
        differ in their number of layers.
    """
    named = [(names, shape_of(x)) for names, x in _paths.named_leaves(tree)]
    if stacked is None:
        containers = dict.fromkeys(DEFAULT_STACKED, 0)
        axes = _detected_axes(_by_container(named, containers))
    else:
        containers = _axes_by_name(stacked)
        axes = _declared_axes(_by_container(named, containers), containers)
    leaves, start = [], 0
    for names, shape in named:
        container = _container(names, containers)
        axis = axes.get(container)
        block = _block(names) if axis is None else container
        count = 1 if axis is None else shape[axis]
        leaves.append(Leaf("/".join(names), block, start, count, axis))
        start += count
    return tuple(leaves)


def shape_of(x: Any) -> tuple[int, ...]:
    """The shape of an array, of a ``ShapeDtypeStruct`` or of a number."""
    return tuple(x.shape) if hasattr(x, "shape") else np.shape(x)


def _axes_by_name(stacked: Sequence[str] | Mapping[str, int]) -> dict[str, int]:
    if isinstance(stacked, str):
        raise ValueError(f"stacked must be a tuple of names, such as ({stacked!r},), not a string.")
    axes = dict(stacked) if isinstance(stacked, Mapping) else dict.fromkeys(stacked, 0)
    for name, axis in axes.items():
        if axis < 0:
            raise ValueError(f"stacked has the axis {axis} for {name!r}; it must be 0 or above.")
    return {name.lower(): axis for name, axis in axes.items()}


Shapes = Sequence[tuple[int, ...]]


def _by_container(
    named: Sequence[tuple[tuple[str, ...], tuple[int, ...]]], containers: Mapping[str, int]
) -> dict[str, Shapes]:
    """The shapes in each container that may hold stacked leaves."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for names, shape in named:
        if container := _container(names, containers):
            shapes.setdefault(container, []).append(shape)
    return dict(shapes)


def _declared_axes(found: Mapping[str, Shapes], containers: Mapping[str, int]) -> dict[str, int]:
    """The axis of the layers in each container, as the user says."""
    axes = {}
    for container, shapes in found.items():
        axis = axes[container] = containers[container.rpartition("/")[2]]
        if not _agree(shapes, axis):
            raise ValueError(
                f"stacked names {container!r}, but along axis {axis} its arrays, of the shapes "
                f"{shapes}, do not all have the same size; name other containers, or pass ()."
            )
    return axes


def _detected_axes(found: Mapping[str, Shapes]) -> dict[str, int]:
    """The axis of the layers in each container whose arrays agree on how many layers there are."""
    axes = {}
    for container, shapes in found.items():
        if _agree(shapes, 0):
            axes[container] = 0
        # Plain matrices, [in, out], may well agree on their outputs.
        elif _agree(shapes, 1) and any(len(shape) > 2 for shape in shapes):
            axes[container] = 1
    return axes


def _agree(shapes: Shapes, axis: int) -> bool:
    sizes = {shape[axis] if len(shape) > axis else None for shape in shapes}
    return len(sizes) == 1 and None not in sizes


def _container(names: tuple[str, ...], containers: Mapping[str, int]) -> str:
    """The path of the container that may hold a leaf stacked; empty where there is none."""
    for position, name in enumerate(names[:-1]):
        if name in containers and not re.fullmatch(
            r"((layer|block|h)s?_?)?\d+", names[position + 1]
        ):
            return "/".join(names[: position + 1])
    return ""


def _block(names: tuple[str, ...]) -> str:
    """The block of an unstacked leaf: up to its layer's number, or else the module around it."""
    for position, name in enumerate(names):
        if re.fullmatch(r"\d+|.*(layer|block|h)s?_?\d+", name):
            return "/".join(names[: position + 1])
    return "/".join(names[:-1]) or "/".join(names)
