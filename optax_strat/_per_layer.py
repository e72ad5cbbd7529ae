"""Other people's per-tensor rules on stacked layers: each slice is treated as the tensor it is.

LAMB's and LARS's trust ratio, Adafactor's factored moments and its clipping look at one tensor at a
time. On a model whose layers are stacked they would look at all layers as one.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import NamedSharding, PartitionSpec

from optax_strat import _meshes
from optax_strat._layers import Layers, LayersLike, as_layers


def per_layer(
    inner: optax.GradientTransformation, *, layers: LayersLike = Layers()
) -> optax.GradientTransformationExtraArgs:
    """Applies a transformation to each slice of a stacked ``[L, ...]`` leaf on its own.

    The result is that of the same model with its layers in a list, while leaves, moments and
    shardings stay stacked. Leaves that are not stacked go through ``inner`` as they are.
    Element-wise rules (Adam, Lion) need no wrapping: to them a slice and a stack are the same.

    Args:
      inner: a transformation that is a rule per tensor, such as ``optax.scale_by_trust_ratio()``.
        A mask inside it would see slices; put masked parts of a chain outside. Extra arguments
        reach it as they are.
      layers: how stacked leaves are found; see :class:`Layers`. All must have the same number of
        layers.

    Returns:
      The transformation; its state for stacked leaves has a leading dimension of layers throughout.

    Raises:
      ValueError: at ``init``, if stacked leaves differ in their number of layers.

    Examples:
      Two layers whose parameters differ ten-fold in size get trust ratios of their own:

      >>> import jax.numpy as jnp, optax
      >>> from optax_strat import per_layer
      >>> params = {'layers': {'mlp': jnp.array([[[1.0]], [[10.0]]])}}
      >>> tx = per_layer(optax.scale_by_trust_ratio())
      >>> updates, _ = tx.update({'layers': {'mlp': jnp.ones((2, 1, 1))}}, tx.init(params), params)
      >>> updates['layers']['mlp'].ravel()
      Array([ 1., 10.], dtype=float32)
    """
    layers = as_layers(layers)

    def labels(tree: Any) -> Any:
        kinds = ["one" if leaf.axis is None else "many" for leaf in layers.layout(tree)]
        return jax.tree.unflatten(jax.tree.structure(tree), kinds)

    return optax.partition(
        {"one": _unless_empty(inner), "many": _unless_empty(_over_layers(inner, layers))}, labels
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
    inner: optax.GradientTransformation, layers: Layers
) -> optax.GradientTransformationExtraArgs:
    """``inner`` vectorized over the layers of a tree in which every leaf is stacked."""
    inner = optax.with_extra_args_support(inner)

    def axes_of(tree: Any) -> Any:
        leaves = layers.layout(tree)
        counts = {leaf.count for leaf in leaves}
        if len(counts) > 1:
            raise ValueError(
                f"per_layer needs one number of layers, but stacked leaves have {sorted(counts)}: "
                "name those of one of them, layers=Layers(stacked=...), and chain two of per_layer."
            )
        return jax.tree.unflatten(jax.tree.structure(tree), [leaf.axis for leaf in leaves])

    def init(params: Any) -> Any:
        # Nothing is stacked here, or optax.tree.map_params asks with a placeholder for parameters.
        if not jax.tree.leaves(params):
            return inner.init(params)
        axes = axes_of(params)
        over = jax.vmap(inner.init, in_axes=(axes,))
        if not _meshes.on_explicit_axes():
            return over(params)
        return _meshes.on_automatic_axes(over, _state_specs(over, params, axes), params)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        axes = axes_of(updates)

        def over(updates: Any, state: Any, params: Any, extra_args: dict[str, Any]) -> Any:
            return jax.vmap(
                functools.partial(inner.update, **extra_args),
                in_axes=(axes, 0, None if params is None else axes),
                out_axes=(axes, 0),
            )(updates, state, params)

        if not _meshes.on_explicit_axes():
            return over(updates, state, params, extra_args)
        # JAX's own vmap wants all that it maps to be sharded alike along the layers.
        specs = _meshes.specs((updates, state))
        return _meshes.on_automatic_axes(over, specs, updates, state, params, extra_args)

    return optax.GradientTransformationExtraArgs(init, update)


def _state_specs(init: Callable[[Any], Any], params: Any, axes: Any) -> Any:
    """How the state is sharded on a mesh with explicit axes: as the parameters that it belongs to.

    Along the layers a leaf of the state follows the parameter whose path ends its own; along its
    other dimensions it does what ``init`` makes of parameters that are whole along the layers.
    """
    along: dict[Any, Any] = {}
    places = jax.tree.leaves(axes)

    def whole(path: Any, x: jax.Array) -> jax.ShapeDtypeStruct:
        axis = places[len(along)]
        sharding = jax.typeof(x).sharding
        dims = list(sharding.spec)
        along[path], dims[axis] = dims[axis], None
        place = NamedSharding(sharding.mesh, PartitionSpec(*dims))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

    state = jax.eval_shape(init, jax.tree_util.tree_map_with_path(whole, params))

    def spec(path: Any, leaf: jax.ShapeDtypeStruct) -> PartitionSpec:
        first = next((along[path[n:]] for n in range(len(path)) if path[n:] in along), None)
        inside = leaf.sharding.spec[1:] if leaf.sharding else ()
        return PartitionSpec(first, *inside, *[None] * (len(leaf.shape) - 1 - len(inside)))

    return jax.tree_util.tree_map_with_path(spec, state)
