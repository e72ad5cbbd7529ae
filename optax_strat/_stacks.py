"""Which containers of a tree are stacks of layers, by the evidence of their leaves.

Equal sizes do not make a stack: two square kernels in a dict ``layers`` are no 16 layers. What does
is that leaves have a dimension more than such parameters have in one layer (a norm with two, an MLP
kernel with three) and that all of them agree on its size. Where the evidence points both ways the
tree is refused, with the line that settles it.
"""

import functools
import itertools
import math
import re
import warnings
from collections.abc import Collection, Sequence
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
"""Names of containers that may be a stack: of all layers (``layers/mlp/up/kernel``), or of groups
of numbered ones (``layers/layers_0/mlp/up/kernel``, as MaxText scans Gemma 3). The axis of the
layers is the first or, as in MaxText, the second. A container of another name is a stack where its
norms or biases have a dimension too many and all its arrays agree on it."""


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
    unnamed = _unnamed(members)
    widths = _widths(members, {*plain, *numbered, *unnamed})
    axes: dict[Container, int] = {}
    # Of containers in each other the outermost is the stack, but a list of stacks is a list.
    for containers, is_named in ((plain, True), (numbered, False), (unnamed, False)):
        for container, inside in containers.items():
            within = any(container[:end] in axes for end in range(1, len(container)))
            around = any(other[: len(container)] == container for other in axes)
            axis = None if within or around else _axis_of(container, inside, widths, is_named)
            if axis is not None:
                axes[container] = axis
    return axes


def _unnamed(members: Sequence[Member]) -> dict[Container, list[Member]]:
    """The containers of other names in which norms or biases have a dimension of layers."""
    votes = {member: _vote(member) for member in members}
    stacked = [m for m, vote in votes.items() if vote == "stacked" and _is_vector(m)]
    if not stacked:
        return {}
    single = {
        member.names[:end]
        for member, vote in votes.items()
        if vote in ("one layer", "vector")
        for end in range(1, len(member.names))
    }
    around = dict.fromkeys(m.names[:end] for m in stacked for end in range(1, len(m.names)))
    found = {
        container: [m for m in members if m.names[: len(container)] == container]
        for container in around
        if container not in single and container[-1].lower() not in DEFAULT_STACKED
    }
    # A norm by itself is no model: it may well have two dimensions.
    return {container: m for container, m in found.items() if not all(map(_is_vector, m))}


def _axis_of(
    container: Container, inside: Sequence[Member], widths: Collection[int], is_named: bool
) -> int | None:
    """The axis of the layers in a container; None where it is no stack.

    Only the name of a container that is no list raises doubts that are worth an error.
    """
    votes = {member: _vote(member) for member in inside}
    stacks = [member for member, vote in votes.items() if vote == "stacked"]
    single = [member for member, vote in votes.items() if vote in ("one layer", "vector")]
    arrays = [member for member in inside if member.shape]
    axes = common_axes(arrays)
    if 0 in axes:  # what has one dimension of that size is one number a layer
        single = [member for member in single if votes[member] == "one layer"]
    if not stacks:
        unclear = [m for m in inside if votes[m] == "unclear" and len(m.shape) > 2]
        unclear = [member for member in unclear if not _is_convolution(member)]
        if single or not is_named or not unclear or not axes:
            return None
        # Names tell nothing: what all agree on is a number of layers unless it is a width as well,
        # or may be one of experts.
        experts = any(re.search("expert|moe", _inner_path(m)) for m in unclear)
        if experts or arrays[0].shape[axes[0]] in widths:
            raise _ambiguous(container, axes, unclear, unclear)
    elif single:
        shared = common_axes(stacks)
        if not is_named or not shared:
            return None
        raise _ambiguous(container, shared[:1], stacks, single)
    elif not axes:
        if not is_named:
            return None
        raise ValueError(
            f"{'/'.join(container)!r} looks like stacked layers, but its arrays agree on no number "
            f"of layers: {some(stacks)}. Say which containers are stacked, in "
            "layers=Layers(stacked=...), or that none is, with stacked=()."
        )
    if axes == [1] and not is_named and arrays[0].shape[1] in widths:
        return None
    return _chosen(container, arrays, axes, widths)


def _chosen(
    container: Container, arrays: Sequence[Member], axes: Sequence[int], widths: Collection[int]
) -> int:
    """Of the axes that all arrays agree on, the one of the layers and not of the width."""
    sizes, name = arrays[0].shape, container[-1]
    is_width = {axis: sizes[axis] in widths for axis in axes}
    if axes == [1] and is_width[1]:
        parts = dict.fromkeys(f"{name}/{m.names[len(container)]}" for m in arrays)
        raise ValueError(
            f"{'/'.join(container)!r} can be read in two ways: as {sizes[1]} layers stacked along "
            f"axis 1, or as several stacks along axis 0 (see {some(arrays)}). Say which, with "
            f"layers=Layers(stacked={ {name: 1} }) or layers=Layers(stacked={tuple(parts)})."
        )
    if len(axes) == 1:
        return axes[0]
    if is_width[0] == is_width[1]:
        warnings.warn(
            f"{'/'.join(container)!r} is read as {sizes[0]} layers stacked along axis 0, but it "
            f"may as well be {sizes[1]} along axis 1: {some(arrays)}. Say which, with "
            f"layers=Layers(stacked={ {name: 0} }) or { {name: 1} }.",
            stacklevel=2,
        )
    return 1 if is_width[0] and not is_width[1] else 0


Vote = Literal["stacked", "one layer", "vector", "unclear"]


@functools.lru_cache(maxsize=2**16)  # asked for many times a trace
def _vote(member: Member) -> Vote:
    """What a leaf's name and number of dimensions say of the container around it."""
    names, dims = member
    ndim = len(dims)
    found = _layer_types.match(names)
    if found is None or not ndim or _is_convolution(member):
        return "unclear"
    path = _inner_path(member)
    if _is_vector(member):
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


def _inner_path(member: Member) -> str:
    """The path without the containers' names, of which `moe_layers` says nothing of experts."""
    return "/".join(n.lower() for n in member.names if n.lower() not in DEFAULT_STACKED)


def _is_vector(member: Member) -> bool:
    """Whether it is called a norm or a bias, of one dimension in one layer."""
    found = _layer_types.match(member.names)
    return found is not None and found.type in (LayerType.norm, LayerType.bias)


def _is_convolution(member: Member) -> bool:
    """Whether it may be a kernel of a convolution, whose dimensions are hard to tell apart."""
    return any("conv" in name.lower() for name in member.names)


def common_axes(members: Sequence[Member], axes: Sequence[int] = (0, 1)) -> list[int]:
    """The axes along which all arrays have the same size."""
    shapes = [member.shape for member in members if member.shape]
    sizes = {axis: {s[axis] if len(s) > axis else None for s in shapes} for axis in axes}
    return [axis for axis, found in sizes.items() if len(found) == 1 and None not in found]


def _widths(members: Sequence[Member], containers: Collection[Container]) -> set[int]:
    """The sizes of all dimensions but those that may be of layers."""
    widths: set[int] = set()
    for member in members:
        names, shape = member
        if _is_convolution(member):
            continue
        may_be_stacked = any(names[:end] in containers for end in range(1, len(names)))
        rest = shape[2:] if may_be_stacked else shape
        found = _layer_types.match(names)
        if len(rest) > 1 and found is not None and found.type == LayerType.attention:
            rest = (*map(math.prod, itertools.pairwise(rest)),)  # heads times their dimensions
        widths.update(rest)
    return widths


def _ambiguous(
    container: Container, axes: Sequence[int], stacks: Sequence[Member], single: Sequence[Member]
) -> ValueError:
    names, see = [container[-1]], f": {some(stacks)}"
    if single != stacks:  # Named whole, the container would have arrays that differ.
        names = list(dict.fromkeys(f"{names[0]}/{m.names[len(container)]}" for m in stacks))
        see = f" (see {some(single)})"
    choices = [tuple(names) if axis == 0 else dict.fromkeys(names, axis) for axis in axes]
    layers = " or ".join(
        f"{stacks[0].shape[axis]} layers stacked along axis {axis}" for axis in axes
    )
    lines = " or ".join(f"layers=Layers(stacked={choice})" for choice in [*choices, ()])
    return ValueError(
        f"{'/'.join(container)!r} can be read in two ways: as {layers}"
        f"{f' (see {some(stacks)})' if single != stacks else ''}, or as parameters of one layer "
        f"each{see}. Say which, with {lines}."
    )


def some(members: Sequence[Member]) -> str:
    return ", ".join(map(str, members[:3])) + (", ..." if len(members) > 3 else "")
