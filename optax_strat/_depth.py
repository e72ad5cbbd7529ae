"""Learning rates that fall with the distance from the output, block by block: for fine-tuning."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from optax_strat import _blocks, _checks, _layer_types, _layout, _paths, _scaling
from optax_strat._blocks import Stacks
from optax_strat._layer_types import LayerType
from optax_strat._layers import Layers, LayersLike, as_layers


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


def distances(
    tree: optax.Params, layers: Layers, stacks: Stacks | None = None
) -> list[int | np.ndarray]:
    """The distance from the output of each leaf; of stacked leaves, of each slice."""
    leaves, layout = _paths.named_leaves(tree), layers.layout(tree)
    labels = jax.tree.leaves(layers.labels(tree))
    found = _blocks.find([names for names, _ in leaves], layout, stacks)
    result: list[int | np.ndarray] = []
    for (names, _), label, place in zip(leaves, labels, found.places, strict=True):
        if place is not None:
            result.append(found.distance(place))
        elif _is_embedding(names, label, found):
            result.append(found.depth_below(names) + 1)
        else:
            result.append(0)
    return result


def _is_embedding(names: tuple[str, ...], label: str, found: _blocks.Blocks) -> bool:
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


def _factor(
    decay: ArrayLike, distance: int | np.ndarray, leaf: _layout.Leaf, ndim: int
) -> ArrayLike:
    """A power of the decay; of stacked leaves one for each slice, to broadcast against the leaf."""
    if _checks.is_number(decay):
        power = np.power(float(decay), np.asarray(distance))
    else:
        power = jnp.power(jnp.asarray(decay, jnp.float32), np.asarray(distance, np.float32))
    if np.ndim(distance):
        power = jnp.expand_dims(power, [dim for dim in range(ndim) if dim != leaf.axis])
    return power
