"""Which containers of a tree are stacks of layers, by the evidence of their leaves.

Equal sizes do not make a stack: two square kernels in a dict ``layers`` are no 16 layers. What does
is that leaves have a dimension more than such parameters have in one layer (a norm with two, an MLP
kernel with three) and that all of them agree on its size. Where the evidence points both ways the
tree is refused, with the line that settles it.
"""

import itertools
import math
import re
import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from optax_strat import _layer_types
from optax_strat._layer_types import LayerType

DEFAULT_STACKED: tuple[str, ...] = (
    "layers",
    "blocks",
    # MaxText's DeepSeek, Gemma 4 and pipelines, big_vision, Haiku's `layer_stack`.
    "dense_layers",
    "moe_layers",
    "scanned_blocks",
    "layers_outside_pipeline",
    "moe_layers_outside_pipeline",
    "encoderblock",
    "__layer_stack_no_per_layer",
    "__layer_stack_with_per_layer",
)
"""Containers that may be a stack: of all layers (``layers/mlp/up/kernel``), or of groups of
numbered ones (``layers/layers_0/mlp/up/kernel``, as MaxText scans Gemma 3). The axis of the layers
is the first or, as in MaxText, the second."""


NUMBERED_CHILD = re.compile(r"((layer|block|h)s?_?)?\d+", re.IGNORECASE)
"""What a container's children are called where it is a list of layers, or of groups of them."""


Container: TypeAlias = tuple[str, ...]
"""The path of a module that holds leaves."""


class Member(NamedTuple):
    """A leaf of a container that may be a stack."""

    names: tuple[str, ...]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{'/'.join(self.names)} {list(self.shape)}"


def detected(members: Sequence[Member]) -> dict[Container, int]:
    """The axis of the layers in each container that is a stack, by the evidence of its leaves."""
    plain: dict[Container, list[Member]] = {}
    numbered: dict[Container, list[Member]] = {}
    for member in members:
        for end, name in enumerate(member.names[:-1], start=1):
            if name.lower() in DEFAULT_STACKED:
                kind = numbered if NUMBERED_CHILD.fullmatch(member.names[end]) else plain
                kind.setdefault(member.names[:end], []).append(member)
    axes: dict[Container, int] = {}
    # Of containers in each other the outermost is the stack, but a list of stacks is a list.
    for containers, of_groups in ((plain, False), (numbered, True)):
        for container, inside in containers.items():
            within = any(container[:end] in axes for end in range(1, len(container)))
            around = any(other[: len(container)] == container for other in axes)
            axis = None if within or around else _axis_of(container, inside, members, of_groups)
            if axis is not None:
                axes[container] = axis
    return axes


def _axis_of(
    container: Container, inside: Sequence[Member], members: Sequence[Member], of_groups: bool
) -> int | None:
    """The axis of the layers in a container; None where it is no stack."""
    votes = {member: _vote(member) for member in inside}
    stacks = [member for member, vote in votes.items() if vote == "stacked"]
    single = [member for member, vote in votes.items() if vote == "one layer"]
    vectors = [member for member, vote in votes.items() if vote == "vector"]
    arrays = [member for member in inside if member.shape]
    axes = common_axes(arrays)
    if not stacks:
        # Names tell nothing: what all agree on is a number of layers unless it is a width as well.
        unclear = [
            member
            for member, vote in votes.items()
            if vote == "unclear" and len(member.shape) > 2 and not _is_convolution(member)
        ]
        if single or vectors or of_groups or not unclear or not axes:
            return None
        if any(_is_width(arrays[0].shape[axis], members) for axis in axes[:1]):
            raise _ambiguous(container, axes[0], unclear, unclear)
    elif single or (vectors and 0 not in axes):
        if of_groups or not common_axes(stacks):
            return None
        raise _ambiguous(container, common_axes(stacks)[0], stacks, [*single, *vectors])
    elif not axes:
        if of_groups:
            return None
        raise ValueError(
            f"{'/'.join(container)!r} looks like stacked layers, but its arrays agree on no number "
            f"of layers: {some(stacks)}. Say which containers are stacked, in "
            f"layers=Layers(stacked=...), or that none is, with stacked=()."
        )
    if axes == [1] and _is_width(arrays[0].shape[1], members):
        parts = dict.fromkeys(f"{container[-1]}/{m.names[len(container)]}" for m in stacks)
        raise ValueError(
            f"{'/'.join(container)!r} can be read in two ways: as {arrays[0].shape[1]} layers "
            f"stacked along axis 1, or as several stacks along axis 0 (see {some(arrays)}). Say "
            f"which, with layers=Layers(stacked={{{container[-1]!r}: 1}}) or "
            f"layers=Layers(stacked={tuple(parts)})."
        )
    if len(axes) == 1:
        return axes[0]
    first, second = (_is_width(arrays[0].shape[axis], members) for axis in (0, 1))
    if first == second:
        sizes = arrays[0].shape
        warnings.warn(
            f"{'/'.join(container)!r} is read as {sizes[0]} layers stacked along axis 0, but it "
            f"may as well be {sizes[1]} along axis 1: {some(arrays)}. Say which, with "
            f"layers=Layers(stacked={{{container[-1]!r}: 0}}) or {{{container[-1]!r}: 1}}.",
            stacklevel=2,
        )
    return 1 if first and not second else 0


Vote = Literal["stacked", "one layer", "vector", "unclear"]


def _vote(member: Member) -> Vote:
    """What a leaf's name and number of dimensions say of the container around it."""
    names, dims = member
    ndim = len(dims)
    found = _layer_types.match(names)
    if found is None or not ndim or _is_convolution(member):
        return "unclear"
    path = "/".join(names).lower()
    if found.type in (LayerType.norm, LayerType.bias):
        by_head = found.type == LayerType.bias and re.search(
            "att(ention|n)|expert|moe|query|key|value", path
        )
        by_head = by_head or re.search(r"(^|/)_?(q|k|query|key)_?(layer_?)?norm", path)
        usual, least = (2 if by_head else 1), 1
        if ndim == 1:
            return "vector"
    else:
        usual = 3 if found.type == LayerType.attention else 2
        usual += bool(re.search("expert|moe|einsum|qkv", path))
        is_array = found.end == len(names) or names[-1].lower() in _layer_types.ARRAYS
        least = 2 if is_array else 0
    if ndim > usual:
        return "stacked"
    return "one layer" if ndim - 1 < least else "unclear"


def _is_convolution(member: Member) -> bool:
    """Whether it may be a kernel of a convolution, whose dimensions are hard to tell apart."""
    return any("conv" in name.lower() for name in member.names)


def common_axes(members: Sequence[Member], axes: Sequence[int] = (0, 1)) -> list[int]:
    """The axes along which all arrays have the same size."""
    shapes = [member.shape for member in members if member.shape]
    sizes = {axis: {s[axis] if len(s) > axis else None for s in shapes} for axis in axes}
    return [axis for axis, found in sizes.items() if len(found) == 1 and None not in found]


def _is_width(size: int, members: Sequence[Member]) -> bool:
    """Whether a size is that of dimensions which are none of layers."""
    widths: set[int] = set()
    for member in members:
        if _is_convolution(member):
            continue
        may_be_stacked = any(name.lower() in DEFAULT_STACKED for name in member.names[:-1])
        rest = member.shape[2:] if may_be_stacked else member.shape
        found = _layer_types.match(member.names)
        if len(rest) > 1 and found is not None and found.type == LayerType.attention:
            rest = (*map(math.prod, itertools.pairwise(rest)),)  # heads times their dimensions
        widths.update(rest)
    return size in widths


def _ambiguous(
    container: Container, axis: int, stacks: Sequence[Member], single: Sequence[Member]
) -> ValueError:
    names = [container[-1]]
    if single != stacks:  # Named whole, the container would have arrays that differ.
        names = list(dict.fromkeys(f"{names[0]}/{m.names[len(container)]}" for m in stacks))
    choice = tuple(names) if axis == 0 else dict.fromkeys(names, axis)
    return ValueError(
        f"{'/'.join(container)!r} can be read in two ways: as {stacks[0].shape[axis]} layers "
        f"stacked along axis {axis} (see {some(stacks)}), or as parameters of one layer each "
        f"(see {some(single)}). Say which, with layers=Layers(stacked={choice}) or "
        "layers=Layers(stacked=())."
    )


def some(members: Sequence[Member]) -> str:
    return ", ".join(map(str, members[:3])) + (", ..." if len(members) > 3 else "")
