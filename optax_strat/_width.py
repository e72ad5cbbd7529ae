"""Learning rates that carry over from a narrow model to a wide one: muP for Adam."""

import math

import jax
import optax

from optax_strat import _layout, _matrices, _paths, _scaling
from optax_strat._layer_types import LayerType
from optax_strat._layers import Layers, LayersLike, as_layers


def scale_by_width(
    base_shapes: optax.Params, layers: LayersLike = Layers()
) -> optax.GradientTransformationExtraArgs:
    r"""Multiplies the updates of each matrix by how much narrower its input is in a base model.

    .. math::
      u \cdot \frac{\text{fan-in of the base model}}{\text{fan-in}}

    so that a learning rate tuned on the base model is right for a wider one (μTransfer). Embeddings
    and vectors (norms, biases) keep theirs, and so does a matrix whose input does not grow.

    These are the learning rates for Adam of Table 3 of Tensor Programs V (in Table 8, which is
    equivalent, those of hidden weights alone). They hold for directions whose size does not depend
    on the gradient's: Adam, Lion, StratOpt, Aardvark; not for SGD, nor for Muon, whose updates are
    sized by themselves. The rest of μP is the model's own, and none of it is done here: hidden
    weights initialized with a variance of 1 / fan-in, the output head's with 1 / fan-in² (or zero),
    logits of a head that is tied to the embedding divided by the width, attention logits divided by
    the size of a head and not by its root. Weight decay that is added in front of it is multiplied
    too, and what is added behind it is not.

    Args:
      base_shapes: parameters of the base model, or their shapes, such as ``jax.eval_shape(init)``
        gives, with the same paths. Of stacked layers there may be another number.
      layers: how layers and their types are found; see :class:`Layers`.

    Returns:
      The transformation, which has no state.

    Raises:
      ValueError: at ``init``, the base model has no such parameter, or one with another number of
        dimensions, or it is not known which dimensions of a kernel are its input.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from optax_strat import scale_by_width
      >>> def init(width):
      ...     return {'embed': jnp.ones((16, width)), 'mlp': jnp.ones((width, 4 * width))}
      >>> base = jax.eval_shape(lambda: init(64))
      >>> tx = optax.chain(optax.scale_by_adam(), scale_by_width(base), optax.scale(-1e-3))
      >>> params = init(256)
      >>> updates, _ = tx.update(params, tx.init(params))
      >>> {name: f'{u[0, 0]:.5f}' for name, u in updates.items()}
      {'embed': '-0.00100', 'mlp': '-0.00025'}

    References:
      Yang et al., `Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter
      Transfer <https://arxiv.org/abs/2203.03466>`_, 2021
    """
    layers = as_layers(layers)
    base = {names: _layout.shape_of(x) for names, x in _paths.named_leaves(base_shapes)}

    def multipliers(tree: optax.Params) -> list[float]:
        labels = jax.tree.leaves(layers.labels(tree))
        axes = _matrices.matrix_axes(tree, layers=layers)
        found = []
        for (names, x), label, sides in zip(_paths.named_leaves(tree), labels, axes, strict=True):
            shape, base_shape = _layout.shape_of(x), base.get(names)
            if base_shape is None or len(base_shape) != len(shape):
                has = "none" if base_shape is None else f"the shape {base_shape}"
                raise ValueError(
                    "scale_by_width needs a base model with the same parameters, but for "
                    f"{'/'.join(names) or 'one array'}, of the shape {shape}, it has {has}."
                )
            if sides is None or label == LayerType.embedding:
                found.append(1.0)
            else:
                fan_in, base_fan_in = (
                    math.prod(sizes[axis] for axis in sides.inputs) for sizes in (shape, base_shape)
                )
                found.append(base_fan_in / fan_in)
        return found

    return _scaling.scale_leaves(multipliers)
