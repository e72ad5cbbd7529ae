"""Which parameters decay: matrices only, unless a mask says otherwise.

"Separate parameter groups for weight decay" (StratOpt, 3.2).
"""

from typing import Any

import jax
import optax

from optax_strat import _checks, _layer_types, _layout


def decays(
    params: Any, stacked: _layout.Stacked = None, layer_types: _layer_types.LayerTypes = None
) -> Any:
    """A tree of Booleans, true for the parameters that weight decay applies to by default.

    These are matrices: at least two dimensions besides that of stacked layers (a stacked ``[L, D]``
    norm is no matrix, an ``[L, D, N, H]`` kernel is one), and neither norm nor bias (the biases of
    Flax's attention have two dimensions).

    Args:
      params: a tree of parameters, gradients or shapes.
      stacked: which containers hold stacked leaves; see :data:`DEFAULT_STACKED`.
      layer_types: rules, or a function from a tree to labels, to tell norms and biases by.

    Returns:
      A tree of the same structure. As a function it is a mask: ``optax.adamw(..., mask=decays)``.

    Raises:
      ValueError: a container named in ``stacked`` is not stacked, or a rule is no rule.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_strat import decays
      >>> decays({'layers': {'norm': jnp.ones((2, 4)), 'mlp': jnp.ones((2, 4, 8))}})
      {'layers': {'mlp': True, 'norm': False}}
    """
    leaves, treedef = jax.tree.flatten(params)
    labels = jax.tree.leaves(_layer_types.labeler(layer_types, unmatched="other")(params))
    answers = []
    for x, leaf, label in zip(leaves, _layout.layout(params, stacked), labels, strict=True):
        dims = len(_layout.shape_of(x)) - (leaf.axis is not None)
        answers.append(dims >= 2 and label != _layer_types.LayerType.norm)
    return jax.tree.unflatten(treedef, answers)


def add_decay(
    weight_decay: Any,
    mask: Any = None,
    stacked: _layout.Stacked = None,
    layer_types: _layer_types.LayerTypes = None,
) -> optax.GradientTransformationExtraArgs:
    """``optax.add_decayed_weights`` on matrices only, or on what ``mask`` says.

    A plain zero needs no parameters in ``update``; its state looks the same as any other number's.
    """
    if not callable(weight_decay):
        _checks.check_not_negative("weight_decay", weight_decay)
    if mask is None:
        mask = lambda tree: decays(tree, stacked, layer_types)  # noqa: E731
    decay = optax.masked(optax.add_decayed_weights(weight_decay), mask)
    if _checks.is_number(weight_decay) and weight_decay == 0:
        return optax.GradientTransformationExtraArgs(
            decay.init, lambda u, state, *_, **__: (u, state)
        )
    return decay
