"""Where the model meets a mesh: hints for activations, by logical axis names.

The model names dimensions ('batch', 'vocab', ...); which mesh axis a name means is decided outside,
by the rules in force while the model is traced; without rules or a mesh nothing happens::

    with jax.set_mesh(mesh), nnx.logical_axis_rules((("batch", ("data", "fsdp")), ...)):
        train_step(...)
"""

import math
from collections.abc import Callable

import jax
from flax.core.spmd import get_logical_axis_rules
from jax.sharding import AxisType, PartitionSpec


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Asks the compiler to shard an activation by the rules in force.

    Without such hints the compiler may carry the sharding of a weight into the activations: under
    FSDP it then splits the residual stream by width instead of gathering each weight once.

    Args:
        x: Any activation.
        axes: One logical name per dimension; None means whole on every device. A name that no
            rule mentions leaves the dimension to the compiler.

    Returns:
        x, to be sharded that way.
    """
    rules = dict(get_logical_axis_rules())
    if not rules or jax.sharding.get_abstract_mesh().empty:
        return x
    free = PartitionSpec.UNCONSTRAINED
    spec = PartitionSpec(*(None if axis is None else rules.get(axis, free) for axis in axes))
    return jax.lax.with_sharding_constraint(x, spec)


def shards(axis: str) -> int:
    """Into how many parts the rules in force split a dimension of that logical name.

    Returns:
        The devices along its mesh axes; 1 without rules or a mesh.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = dict(get_logical_axis_rules()).get(axis)
    if mesh.empty or axes is None:
        return 1
    return math.prod(mesh.shape[name] for name in ((axes,) if isinstance(axes, str) else axes))


def automatic(function: Callable[..., jax.Array], out: PartitionSpec) -> Callable[..., jax.Array]:
    """Lets the compiler shard the inside of a function, also on a mesh with explicit axes.

    On explicit axes every ambiguous contraction would have to state its result's sharding; the
    model is an island where the compiler infers it, as it does on a mesh with automatic axes.

    Args:
        function: Any function of arrays.
        out: The sharding of its result on a mesh with explicit axes, ignored on others.

    Returns:
        A function with the same arguments and result.
    """
    if AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types:
        return jax.sharding.auto_axes(function, out_sharding=out)
    return function
