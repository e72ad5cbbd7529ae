"""Other people's per-tensor rules on stacked layers: each slice is treated as the tensor it is.

LAMB's and LARS's trust ratio, Adafactor's factored moments and its clipping look at one tensor at a
time. On a model whose layers are stacked they would look at all layers as one.
"""

import functools
from typing import Any

import jax
import optax

from optax_strat import _layout


def per_layer(
    inner: optax.GradientTransformation, *, stacked: _layout.Stacked = None
) -> optax.GradientTransformationExtraArgs:
    """Applies a transformation to each slice of a stacked ``[L, ...]`` leaf on its own.

    The result is that of the same model with its layers in a list, while leaves, moments and
    shardings stay stacked. Leaves that are not stacked go through ``inner`` as they are.
    Element-wise rules (Adam, Lion) need no wrapping: to them a slice and a stack are the same.

    Args:
      inner: a transformation that is a rule per tensor, such as ``optax.scale_by_trust_ratio()``.
        A mask inside it would see slices; put masked parts of a chain outside. Extra arguments
        reach it as they are.
      stacked: which containers hold stacked leaves; see :data:`DEFAULT_STACKED`. All stacked leaves
        must have the same number of layers.

    Returns:
      The transformation; its state for stacked leaves has a leading dimension of layers throughout.

    Raises:
      ValueError: at ``init``, if stacked leaves differ in their number of layers.

    Examples:
      Two layers whose parameters differ ten-fold in size get trust ratios of their own:

      >>> import jax.numpy as jnp, optax
      >>> from optax_strat import per_layer
      >>> params = {'layers': {'up': jnp.array([[1.0, 0.0], [0.0, 10.0]])}}
      >>> tx = per_layer(optax.scale_by_trust_ratio())
      >>> updates, _ = tx.update({'layers': {'up': jnp.eye(2)}}, tx.init(params), params)
      >>> updates['layers']['up']
      Array([[ 1.,  0.],
             [ 0., 10.]], dtype=float32)
    """

    def labels(tree: Any) -> Any:
        kinds = ["one" if leaf.axis is None else "many" for leaf in _layout.layout(tree, stacked)]
        return jax.tree.unflatten(jax.tree.structure(tree), kinds)

    return optax.partition(
        {"one": _unless_empty(inner), "many": _unless_empty(_over_layers(inner, stacked))}, labels
    )


def _unless_empty(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """``inner``, not asked to update nothing, which not everybody's transformation can."""
    inner = optax.with_extra_args_support(inner)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        if not jax.tree.leaves(updates):
            return updates, state
        return inner.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _over_layers(
    inner: optax.GradientTransformation, stacked: _layout.Stacked
) -> optax.GradientTransformationExtraArgs:
    """``inner`` vectorized over the layers of a tree in which every leaf is stacked."""
    inner = optax.with_extra_args_support(inner)

    def axes_of(tree: Any) -> Any:
        leaves = _layout.layout(tree, stacked)
        counts = {leaf.count for leaf in leaves}
        if len(counts) > 1:
            raise ValueError(
                f"per_layer needs one number of layers, but stacked leaves have {sorted(counts)}: "
                "name the containers of one of them in stacked=(...), and chain another per_layer."
            )
        return jax.tree.unflatten(jax.tree.structure(tree), [leaf.axis for leaf in leaves])

    def init(params: Any) -> Any:
        # Nothing is stacked here, or optax.tree.map_params asks with a placeholder for parameters.
        if not jax.tree.leaves(params):
            return inner.init(params)
        return jax.vmap(inner.init, in_axes=(axes_of(params),))(params)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        axes = axes_of(updates)
        over = jax.vmap(
            functools.partial(inner.update, **extra_args),
            in_axes=(axes, 0, None if params is None else axes),
            out_axes=(axes, 0),
        )
        return over(updates, state, params)

    return optax.GradientTransformationExtraArgs(init, update)
