"""Where the layers are in a tree of parameters: which leaves are stacked, and along which axis.

A *layer* is one parameter tensor, and in a model whose layers are stacked (``[L, ...]`` leaves run
by ``lax.scan``) each slice of a stacked leaf. Layouts are static: made of paths and shapes alone.
"""

import dataclasses
import itertools
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from optax_strat import _checks, _layer_types, _paths, _stacks

Stacked: TypeAlias = Sequence[str] | Mapping[str, int] | None


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
      stacked: which containers hold stacked leaves; None finds them.

    Raises:
      ValueError: a container named in ``stacked`` has arrays that differ in their number of layers,
        a tree can be read in two ways, or a leaf is no array.
    """
    _checks.check_arrays(tree)
    members = [_stacks.Member(names, shape_of(x)) for names, x in _paths.named_leaves(tree)]
    axes = _stacks.detected(members) if stacked is None else _declared(members, stacked)
    leaves, start = [], 0
    for names, shape in members:
        depth = next((end for end in range(1, len(names) + 1) if names[:end] in axes), 0)
        axis = axes[names[:depth]] if depth and shape else None
        block = _block(names, depth if axis is not None else 0)
        count = 1 if axis is None else shape[axis]
        leaves.append(Leaf("/".join(names), block, start, count, axis))
        start += count
    return tuple(leaves)


def shape_of(x: Any) -> tuple[int, ...]:
    """The shape of an array, of a ``ShapeDtypeStruct`` or of a number."""
    return tuple(x.shape) if hasattr(x, "shape") else np.shape(x)


def check_stacked(stacked: Stacked) -> None:
    """Raises ValueError unless ``stacked`` names containers, with axes from 0 on if any."""
    if isinstance(stacked, str):
        raise ValueError(f"stacked must be a tuple of names, such as ({stacked!r},), not a string.")
    for name, axis in _axes_by_name(stacked or ()).items():
        if not isinstance(name, str) or not isinstance(axis, int) or axis < 0:
            raise ValueError(f"stacked has the axis {axis} for {name!r}; it must be 0 or above.")


def _axes_by_name(stacked: Sequence[str] | Mapping[str, int]) -> dict[str, int]:
    return dict(stacked) if isinstance(stacked, Mapping) else dict.fromkeys(stacked, 0)


def _declared(
    members: Sequence[_stacks.Member], stacked: Sequence[str] | Mapping[str, int]
) -> dict[_stacks.Container, int]:
    """The axis of the layers in each container that the user names."""
    wanted = {
        tuple(name.lower().split("/")): (name, axis)
        for name, axis in _axes_by_name(stacked).items()
    }
    found: dict[_stacks.Container, list[_stacks.Member]] = {}
    axes, used = {}, set()
    for member in members:
        lower = tuple(name.lower() for name in member.names)
        ends = itertools.product(range(1, len(lower) + 1), wanted)
        for end, key in ends:
            if lower[max(end - len(key), 0) : end] == key:
                found.setdefault(member.names[:end], []).append(member)
                name, axes[member.names[:end]] = wanted[key]
                used.add(name)
                break
    _check_found([name for name, _ in wanted.values() if name not in used], members)
    for container, inside in found.items():
        if axes[container] not in _stacks.common_axes(inside, [axes[container]]):
            raise ValueError(
                f"stacked names {'/'.join(container)!r}, but along axis {axes[container]} its "
                f"arrays do not all have the same size: {_stacks.some(inside)}. Name other "
                "containers (a path such as 'layers/mlp' will do), another axis, or pass ()."
            )
    return axes


def _check_found(missing: Iterable[str], members: Sequence[_stacks.Member]) -> None:
    """Says so where ``stacked`` names no container; only a part of a tree may have none."""
    modules = {name for names, _ in members for name in names[:-1]}
    for name in missing if members else ():
        hint = _layer_types.suggestion(name, modules)
        message = f"stacked names {name!r}, but no module of these parameters is called so"
        if hint:
            raise ValueError(message + hint)
        warnings.warn(message + ".", stacklevel=2)


def _block(names: tuple[str, ...], depth: int) -> str:
    """A leaf's block: the stack from a depth on, a numbered layer, or the module around it."""
    if depth:
        of_group = depth < len(names) and _stacks.NUMBERED_CHILD.fullmatch(names[depth])
        return "/".join(names[: depth + bool(of_group)])
    for position, name in enumerate(names):
        if re.fullmatch(r"\d+|.*(layer|block|h)s?_?\d+", name, re.IGNORECASE):
            return "/".join(names[: position + 1])
    return "/".join(names[:-1]) or "/".join(names)
