"""Learning rates that fall from block to block with the distance from the output, for fine-tuning.

A block is a numbered module (``layers_0``, ``h/3``) or a slice of a stacked leaf. Blocks lie in
containers, and the distance of a block is the number of blocks from it to the output: of its own
container, and of those that follow it.
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from optax_strat import _checks, _layer_types, _layout, _paths, _scaling
from optax_strat._layer_types import LayerType
from optax_strat._layers import Layers, LayersLike, as_layers
from optax_strat._layout import Leaf

Stacks: TypeAlias = Sequence[str | tuple[str, ...]]
"""Containers of blocks, each numbered for itself; those in a tuple are numbered as one."""


def scale_by_depth(
    decay: ArrayLike, layers: LayersLike = Layers(), *, stacks: Stacks | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Multiplies the updates of each block by a power of its distance from the output.

    Layer-wise learning rate decay, as in BEiT and timm. Of n blocks, counted from 0, block i has

    .. math::
      \text{decay}^{\,n - i}

    so that the last has ``decay`` itself; embeddings, which stand below the first, have
    :math:`\text{decay}^{\,n + 1}`, and the head, the final norm and whatever else stands outside
    the blocks 1. Put it behind an optimizer's direction and decay, or behind the whole optimizer.

    Blocks are numbered by their paths (``h/0``, ``layers_0``, ``block_3``: the outermost number
    counts, from 0 or from 1), by the slices of stacked leaves, or, where groups of numbered layers
    are stacked, by both: slice · groups + number. So it has to see the last block; blocks that are
    frozen may be hidden from it. Of MaxText's ``dense_layers`` and ``moe_layers`` the dense ones
    come first. Containers in different modules, such as an encoder's and a decoder's, are numbered
    each for itself if they have equally many blocks. Everything else must be said in ``stacks``.

    Norms and biases inside an embedding are part of it. An embedding belongs to the containers in
    the module around it, ``encoder/embed`` to ``encoder/layers``; of several, to that with most
    blocks.

    Args:
      decay: the ratio between the rates of a block and of the next, in (0, 1].
      layers: how layers and their types are found; see :class:`Layers`.
      stacks: the containers of the blocks, as in the path, where several have to be told apart:
        ``('encoder/layers', 'decoder/layers')`` numbers each for itself, and
        ``(('decoder/layers', 'decoder/layers_remainder'),)`` numbers the second on from the first.
        A block ``layers_0`` lies in ``'layers'``, or in ``'encoder/layers'``. None finds them.

    Returns:
      The transformation, which has no state.

    Raises:
      ValueError: ``decay`` lies outside its range; at ``init``, there are no blocks, or several
        containers of which it is not clear how they are numbered.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from optax_strat import scale_by_depth
      >>> params = {'embed': 1.0, 'h': [{'mlp': 1.0}, {'mlp': 1.0}], 'head': 1.0}
      >>> tx = scale_by_depth(0.5)
      >>> scaled, _ = tx.update(params, tx.init(params))
      >>> jax.tree.map(float, scaled)
      {'embed': 0.125, 'h': [{'mlp': 0.25}, {'mlp': 0.5}], 'head': 1.0}

    References:
      Clark et al., ELECTRA, 2020; Bao et al., `BEiT <https://arxiv.org/abs/2106.08254>`_, 2021
    """
    _checks.check_positive("decay", decay)
    if _checks.is_number(decay) and decay > 1:
        raise ValueError(f"decay must lie in (0, 1], but it is {decay!r}.")
    layers = as_layers(layers)
    if isinstance(stacks, str):
        raise ValueError(f"stacks must be a tuple of names, such as ({stacks!r},), not a string.")

    def factors(tree: optax.Params) -> list[ArrayLike]:
        places = zip(
            jax.tree.leaves(tree),
            distances(tree, layers, stacks),
            layers.layout(tree),
            strict=True,
        )
        return [
            _factor(decay, distance, leaf, len(_layout.shape_of(u))) if np.any(distance) else 1.0
            for u, distance, leaf in places
        ]

    return _scaling.scale_leaves(factors)


_IN_ORDER = ("dense_layers", "moe_layers")
"""Containers in one module whose order is known: MaxText's DeepSeek."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a leaf is among the blocks of a container."""

    container: str
    number: int | None
    """That of a numbered block, or of a numbered layer whose slices are stacked."""
    slices: int | None
    """How many blocks are stacked in the leaf."""


@dataclasses.dataclass
class Container:
    """How many blocks a container has, as its leaves show."""

    above: int = 0
    """How many blocks of other containers stand above."""
    groups: int = 1
    """How many numbered blocks or, in a stack, numbered layers of each slice."""
    slices: int = 1
    lowest: int = 1

    def add(self, place: Place) -> None:
        """Takes note of one leaf."""
        number = place.number or 0
        self.groups = max(self.groups, number + 1)
        self.slices = max(self.slices, place.slices or 1)
        self.lowest = min(self.lowest, number)

    @property
    def blocks(self) -> int:
        """Numbers begin at 0, or at 1 if that is the lowest."""
        return self.slices * self.groups - self.lowest


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The blocks of a tree."""

    places: list[Place | None]
    """The block of each leaf; None outside of all blocks."""
    containers: dict[str, Container]

    def distance(self, place: Place) -> int | np.ndarray:
        """1 for the last block, and 1 more for each below; of stacked leaves, of each slice."""
        container = self.containers[place.container]
        number: int | np.ndarray = place.number or 0
        if place.slices is not None:
            number = np.arange(place.slices) * container.groups + number
        return container.above + container.slices * container.groups - number

    def depth_below(self, names: Sequence[str]) -> int:
        """How many blocks stand above a leaf that is below the blocks of its module."""
        near = self.depth_of_model(names)
        return max(
            (
                container.above + container.blocks
                for path, container in self.containers.items()
                if _common(path.split("/"), names) == near
            ),
            default=0,
        )

    def depth_of_model(self, names: Sequence[str]) -> int:
        """The length of the path of the innermost module around a leaf that has blocks in it."""
        return max((_common(path.split("/"), names) for path in self.containers), default=0)


def find_blocks(
    paths: Sequence[tuple[str, ...]], layout: Sequence[Leaf], stacks: Stacks | None
) -> Blocks:
    """Finds the block of every leaf.

    Raises:
      ValueError: there are none, or the order of several containers is not known.
    """
    wanted = None if stacks is None else _names(stacks)
    places = [_place(names, leaf, wanted) for names, leaf in zip(paths, layout, strict=True)]
    containers: dict[str, Container] = {}
    for place in places:
        if place is not None:
            containers.setdefault(place.container, Container()).add(place)
    named = [path for path in paths if not all(map(_paths.is_index, path))]
    if named and not containers:
        where = "" if stacks is None else f" in {stacks!r}"
        raise ValueError(
            f"scale_by_depth found no blocks{where}, neither numbered (h/0, layers_0) nor stacked; "
            f"the paths are such as {', '.join('/'.join(path) for path in named[:3])}."
        )
    runs = _runs(containers) if stacks is None else _declared(list(containers), stacks)
    for run in runs:
        for upper, lower in itertools.pairwise(containers[path] for path in reversed(run)):
            lower.above = upper.above + upper.blocks
    return Blocks(places, containers)


_NUMBERED = re.compile(r"(.*(?:layer|block)s?|h)_?(\d+)", re.IGNORECASE)
"""A block whose name holds its number: ``layers_0``, ``block3``, ``TransformerBlock_11``."""


def _place(names: tuple[str, ...], leaf: Leaf, wanted: Sequence[str] | None) -> Place | None:
    """A leaf's block: that of the outermost number or stack, of those that are wanted."""
    stack = () if leaf.axis is None else tuple(leaf.block.split("/"))
    places = []
    for container, number, end in _numbers(names):
        if end < len(stack) or leaf.axis is None:
            places.append(Place(container, number, None))
        elif end == len(stack):  # a numbered layer in the stack
            places.append(Place("/".join(stack[:-1]), number, leaf.count))
    if stack and not any(place.slices for place in places):
        places.append(Place(leaf.block, None, leaf.count))
    for place in places:
        around = f"/{place.container}".lower()
        if wanted is None or any(around.endswith(f"/{name.lower()}") for name in wanted):
            return place
    return None


def _numbers(names: tuple[str, ...]) -> list[tuple[str, int, int]]:
    """The numbered blocks on a path: container, number, and the depth at which the number is."""
    found = []
    for depth, name in enumerate(names):
        around = names[:depth]
        if match := _NUMBERED.fullmatch(name):
            found.append(("/".join((*around, match[1])), int(match[2]), depth + 1))
        elif _paths.is_index(name) and around:
            kind = _layer_types.match(around[-1:])
            # A list of embeddings or of heads is none of blocks.
            if kind is None or kind.type in (LayerType.mlp, LayerType.attention):
                found.append(("/".join(around), int(name), depth + 1))
    return found


def _runs(containers: Mapping[str, Container]) -> list[tuple[str, ...]]:
    """Containers that follow each other, where nobody says which do."""
    modules: dict[str, list[str]] = {}
    for path in containers:
        modules.setdefault(path.rpartition("/")[0], []).append(path)
    runs = [tuple(sorted(inside)) for inside in modules.values()]
    known = all(
        len(run) == 1 or tuple(path.rpartition("/")[2] for path in run) == _IN_ORDER for run in runs
    )
    if not known or len({sum(containers[path].blocks for path in run) for run in runs}) > 1:
        names = tuple(containers)
        sizes = ", ".join(f"{path!r} ({containers[path].blocks})" for path in names)
        raise ValueError(
            f"scale_by_depth found blocks in several containers, {sizes}, and cannot know how they "
            f"are numbered: each for itself, stacks={names!r}, or on from the one before, "
            f"stacks={(names,)!r}."
        )
    return runs


def _declared(containers: Sequence[str], stacks: Stacks) -> list[tuple[str, ...]]:
    """Containers that follow each other, as the user says."""
    runs: list[tuple[str, ...]] = []
    for entry in stacks:
        run: list[str] = []
        for name in (entry,) if isinstance(entry, str) else entry:
            matching = [c for c in containers if f"/{c}".lower().endswith(f"/{name.lower()}")]
            if len(matching) > 1 or any(c in other for c in matching for other in (run, *runs)):
                raise ValueError(
                    f"stacks names {name!r}, which may be any of {', '.join(matching)}; name each "
                    "once, by its whole path."
                )
            if not matching and containers:
                raise ValueError(
                    f"stacks names {name!r}, but no container of blocks is called so; found are "
                    f"{', '.join(containers)}."
                )
            run += matching
        runs.append(tuple(run))
    return runs


def _names(stacks: Stacks) -> list[str]:
    entries = ((entry,) if isinstance(entry, str) else entry for entry in stacks)
    return list(itertools.chain.from_iterable(entries))


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """How many names two paths begin with in common."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))


def distances(
    tree: optax.Params, layers: Layers, stacks: Stacks | None = None
) -> list[int | np.ndarray]:
    """The distance from the output of each leaf; of stacked leaves, of each slice."""
    leaves, layout = _paths.named_leaves(tree), layers.layout(tree)
    labels = jax.tree.leaves(layers.labels(tree))
    found = find_blocks([names for names, _ in leaves], layout, stacks)
    result: list[int | np.ndarray] = []
    for (names, _), label, place in zip(leaves, labels, found.places, strict=True):
        if place is not None:
            result.append(found.distance(place))
        elif _is_embedding(names, label, found):
            result.append(found.depth_below(names) + 1)
        else:
            result.append(0)
    return result


def _is_embedding(names: tuple[str, ...], label: str, found: Blocks) -> bool:
    """Whether a leaf outside the blocks is an embedding, or a norm or a bias in or of one."""
    named_by_rules = label in LayerType.__members__  # and not by a type of the user's own
    if named_by_rules and label not in (LayerType.norm, LayerType.bias):
        return label == LayerType.embedding
    # What holds blocks is a model, be it called `embedding_model`.
    inner = names[found.depth_of_model(names) :]
    around = [_layer_types.match(inner[:end]) for end in range(1, len(inner) + 1)]
    kinds = {match.type for match in around if match is not None}
    # `embed_norm` is a norm by its name, and the name says of what.
    by_name = any(pattern.search("/".join(inner)) for pattern in _EMBEDDINGS)
    return LayerType.head not in kinds and (LayerType.embedding in kinds or by_name)


_EMBEDDINGS = [
    _paths.expression(pattern)
    for pattern, kind in _layer_types.DEFAULT_RULES
    if kind == LayerType.embedding
]


def _factor(decay: ArrayLike, distance: int | np.ndarray, leaf: Leaf, ndim: int) -> ArrayLike:
    """A power of the decay; of stacked leaves one for each slice, to broadcast against the leaf."""
    if _checks.is_number(decay):
        power = np.power(float(decay), np.asarray(distance))
    else:
        power = jnp.power(jnp.asarray(decay, jnp.float32), np.asarray(distance, np.float32))
    if np.ndim(distance):
        power = jnp.expand_dims(power, [dim for dim in range(ndim) if dim != leaf.axis])
    return power
