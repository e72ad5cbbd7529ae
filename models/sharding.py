"""Where the model meets a mesh: hints for activations, by logical axis names.

The model names dimensions ('batch', 'vocab', ...); which mesh axis a name means is decided outside,
by the rules in force while the model is traced; without rules or a mesh nothing happens::

    with jax.set_mesh(mesh), nnx.logical_axis_rules((("batch", ("data", "fsdp")), ...)):
        train_step(...)
"""

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax.core.spmd import get_logical_axis_rules
from jax.sharding import AxisType, PartitionSpec

T = TypeVar("T")


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gather(kernel: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    """`constrain` for a parameter, whose gradient is left to the compiler.

    JAX gives a gradient the hint of its value. Here that would sum the gradient whole on every
    device before it is split again, which sends twice as much.

    Args:
        kernel: A parameter.
        axes: As for `constrain`.

    Returns:
        The parameter, to be sharded that way.
    """
    return constrain(kernel, *axes)


def _gather_forward(kernel: jax.Array, axes: tuple[str | None, ...]) -> tuple[jax.Array, None]:
    return constrain(kernel, *axes), None


def _gather_backward(
    axes: tuple[str | None, ...], _: None, gradient: jax.Array
) -> tuple[jax.Array]:
    return (gradient,)


gather.defvjp(_gather_forward, _gather_backward)


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


def automatic(function: Callable[..., T], out: Any) -> Callable[..., T]:
    """Lets the compiler shard the inside of a function, also on a mesh with explicit axes.

    On explicit axes every ambiguous contraction would have to state its result's sharding; the
    model is an island where the compiler infers it, as it does on a mesh with automatic axes.

    Args:
        function: Any function of trees of arrays.
        out: The PartitionSpec of its result, or a tree of them, on a mesh with explicit axes;
            ignored on others.

    Returns:
        A function with the same arguments and result.
    """
    if AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types:
        return jax.sharding.auto_axes(function, out_sharding=out)
    return function
