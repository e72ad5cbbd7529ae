"""Sums and norms over layers, right for large numbers, in derivatives, and inside ``shard_map``."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from optax_strat import _meshes
from optax_strat._layers import Layers
from optax_strat._layout import Leaf
from optax_strat._meshes import AxisName

SCALE = 2.0**-70
"""What numbers are multiplied by whose squares would overflow: 1.8e19 and more."""

LARGEST = 2.0**126
"""The largest norm reckoned with. An infinite norm would leave averages over it infinite, and their
ratios NaN, for ever. The reciprocal of this one is the smallest that is not flushed to zero."""

Measure: TypeAlias = Callable[..., jax.Array]


class Squares(NamedTuple):
    """Sums of squares, and beside them those of the numbers times ``SCALE``.

    The second are of use only where the first overflow, and may be zero everywhere else.
    """

    plain: jax.Array
    small: jax.Array


def squares(tree: Any, leaves: Sequence[Leaf], axis_name: AxisName = None) -> Squares:
    """The sums of squares of every layer, each float32 of shape (layers,)."""
    # CPUs add up complex numbers at a tenth of the speed. What a vmapped program makes of the
    # condition there is right too, but always adds up twice.
    return jax.lax.platform_dependent(
        cpu=lambda: _again_if_needed(tree, leaves, axis_name),
        default=lambda: _in_one_pass(tree, leaves, axis_name),
    )


def _in_one_pass(tree: Any, leaves: Sequence[Leaf], axis_name: AxisName) -> Squares:
    """Both sums as one of complex numbers: one read and one kernel, where two sums are two."""
    pairs = _per_layer(_pairs_of_squares, leaves, axis_name, tree)
    return Squares(pairs.real, pairs.imag)


def _again_if_needed(tree: Any, leaves: Sequence[Leaf], axis_name: AxisName) -> Squares:
    """The second sums only where the first overflow."""
    plain = _per_layer(_abs_squares, leaves, axis_name, tree)
    small = jax.lax.cond(
        jnp.any(plain == jnp.inf),
        lambda: _per_layer(_small_squares, leaves, axis_name, tree),
        lambda: jnp.zeros_like(plain),
    )
    return Squares(plain, small)


def roots(squares: Squares) -> jax.Array:
    """Norms from sums of squares; infinite only if they are too large for float32 themselves."""
    overflows = squares.plain == jnp.inf
    chosen = jnp.where(overflows, squares.small, squares.plain)
    # The slope of a root is infinite at zero. It must not even be in what is not selected: zero
    # times infinity would make every derivative NaN.
    is_zero = chosen == 0
    norms = jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, chosen)))
    return jnp.where(overflows, norms * (1 / SCALE), norms)


def joint_norm(norms: jax.Array) -> jax.Array:
    """The norm of everything whose norms these are."""
    small = _scaled(norms)
    return roots(Squares(jnp.sum(norms * norms), jnp.sum(small * small)))


def global_norm(tree: Any, layers: Layers = Layers(), axis_name: AxisName = None) -> jax.Array:
    """The L2 norm of a whole tree, a float32 scalar; infinite where its square overflows.

    By way of the layers' norms, so that XLA shares them with whatever else needs them; without the
    roots it would add up all squares anew, and write them down to use them twice.
    """
    return jnp.linalg.norm(jnp.sqrt(squares(tree, layers.layout(tree), axis_name).plain))


def inner_products(
    tree: Any, other: Any, leaves: Sequence[Leaf], axis_name: AxisName = None
) -> jax.Array:
    """The real inner product of two trees in every layer, float32 of shape (layers,)."""
    return _per_layer(
        lambda x, y: (_wide(x) * jnp.conj(_wide(y))).real, leaves, axis_name, tree, other
    )


def _per_layer(
    measure: Measure, leaves: Sequence[Leaf], axis_name: AxisName, *trees: Any
) -> jax.Array:
    """Sums ``measure`` of the leaves over each layer, and joins the sums to one vector."""
    parts, axes = [], []
    for leaf, *arrays in zip(leaves, *(jax.tree.leaves(tree) for tree in trees), strict=True):
        values = measure(*arrays)
        # Sums over dimensions and never `ravel`: reshaping a sharded leaf fails on explicit meshes.
        over = tuple(dim for dim in range(values.ndim) if dim != leaf.axis)
        dtype = jnp.complex64 if jnp.iscomplexobj(values) else jnp.float32
        parts.append(_replicated(jnp.atleast_1d(jnp.sum(values, axis=over).astype(dtype))))
        axes.append(_meshes.summed_axes(axis_name, *arrays))
    parts = _meshes.sum_over(parts, axes)
    return jnp.concatenate(parts) if parts else jnp.zeros((0,), jnp.float32)


def _replicated(part: jax.Array) -> jax.Array:
    """Gathers sums of layers that lie on an explicit mesh themselves, so that all can be joined."""
    if any(jax.typeof(part).sharding.spec):
        return jax.sharding.reshard(part, jax.sharding.PartitionSpec(None))
    return part


def _abs_squares(x: Any) -> jax.Array:
    return _squared(*_parts(x))


def _small_squares(x: Any) -> jax.Array:
    return _squared(*map(_scaled, _parts(x)))


def _pairs_of_squares(x: Any) -> jax.Array:
    return jax.lax.complex(_abs_squares(x), _small_squares(x))


def _parts(x: Any) -> tuple[jax.Array, ...]:
    """A leaf in at least float32; of a complex one real and imaginary part."""
    wide = _wide(x)
    return (wide.real, wide.imag) if jnp.iscomplexobj(wide) else (wide,)


def _scaled(x: jax.Array) -> jax.Array:
    """x times ``SCALE``, for its square."""
    # XLA would take the constants out of a product of two: (x * x) * (SCALE * SCALE), which is
    # infinity times zero. It does not look behind a maximum, which here changes no finite number.
    return jnp.maximum(x * jnp.asarray(SCALE, x.dtype), -(2.0**63))


def _squared(*parts: jax.Array) -> jax.Array:
    first, *rest = (part * part for part in parts)
    return sum(rest, first)


def _wide(x: Any) -> jax.Array:
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
