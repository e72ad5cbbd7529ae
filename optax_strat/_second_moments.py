r"""How second moments are kept: in full, in bfloat16, or factored.

"Memory-efficient state tracking" (StratOpt, 3.2). Of the two moments the second needs no direction
and little precision, only its size:

* In float32, 4 bytes a parameter, whatever dtype the parameters have.
* In bfloat16, 2 bytes, rounded stochastically: rounded to the nearest number it would
  never move. With :math:`\beta_2 = 0.999` a step changes it by a thousandth, and the next bfloat16
  is four thousandths away. Rounded up with a probability that is the distance already gone, it
  moves as it should in the mean.
* Factored, next to none: of the matrix :math:`V` of squares only the moving averages of its means
  over columns, :math:`r_i`, and over rows, :math:`c_j`, are kept, and
  :math:`\hat V_{ij} = r_i c_j / \mathrm{mean}(r)` is read in its place. Each layer of a stacked
  leaf is a matrix of its own, and so is each slice along the smaller axes of a leaf with more than
  two. Leaves without two axes longer than 1 are kept in full. A matrix of which each device sees a
  part, inside ``jax.shard_map``, is refused: no type says which of its axes is split, so whether
  the means of two devices are of the same row cannot be known. With ``check_vma=False`` and without
  ``axis_name`` not even the splitting can be seen, and the means are those of the parts.

References:
  Shazeer and Stern, `Adafactor: Adaptive Learning Rates with Sublinear Memory Cost
  <https://arxiv.org/abs/1804.04235>`_, 2018

  Zamirai et al., `Revisiting BFloat16 Training <https://arxiv.org/abs/2010.06192>`_, 2020
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from optax_strat import _checks, _layout, _meshes
from optax_strat._layers import Layers
from optax_strat._meshes import AxisName


class FactoredMoments(NamedTuple):
    """Second moments of a tree, factored; each field is a tree like the parameters.

    What a leaf does not use of the three is zero, of shape ().
    """

    rows: Any
    """Means of the squares over columns, of the parameter's shape but 1 along its columns."""
    columns: Any
    """Means of the squares over rows, of the parameter's shape but 1 along its rows."""
    full: Any
    """The squares themselves, of the parameter's shape."""


class Factors(NamedTuple):
    """The factored second moment of one leaf."""

    rows: jax.Array
    columns: jax.Array


SecondMoment: TypeAlias = Literal["float32", "bfloat16", "factored"] | None
"""How second moments are kept; None is float32 (float64 for float64 parameters)."""


def check_second_moment(second_moment: SecondMoment) -> None:
    """Raises ValueError for an unknown storage."""
    choices = (None, "float32", "bfloat16", "factored")
    _checks.check_choice("second_moment", second_moment, choices)


def zero_nu(params: Any, second_moment: SecondMoment, layers: Layers) -> Any:
    """Second moments of zero: real, at least float32 unless it is told otherwise."""
    dtype = None if second_moment in (None, "factored") else jnp.dtype(second_moment)
    zeros = jax.tree.map(lambda p: jnp.zeros_like(p, dtype=dtype or _real_wide(p)), params)
    if second_moment != "factored":
        return zeros
    leaves = layers.layout(params)
    matrices = _matrix_axes(params, leaves)
    _check_whole(params, leaves, matrices, None)
    arrays, treedef = jax.tree.flatten(zeros)
    parts = [_zero_parts(x, axes) for x, axes in zip(arrays, matrices, strict=True)]
    return FactoredMoments(
        *(jax.tree.unflatten(treedef, [part[i] for part in parts]) for i in range(3))
    )


def check_factored(nu: Any, updates: Any, layers: Layers, axis_name: AxisName) -> None:
    """Raises ValueError unless factored moments are of whole matrices, those of the gradients."""
    if not isinstance(nu, FactoredMoments):
        return
    leaves = layers.layout(updates)
    matrices = _matrix_axes(updates, leaves)
    _check_whole(updates, leaves, matrices, axis_name)
    kept = jax.tree.leaves(nu.rows), jax.tree.leaves(nu.columns)
    gradients = jax.tree.leaves(updates)
    for leaf, g, axes, rows, columns in zip(leaves, gradients, matrices, *kept, strict=True):
        if (jnp.shape(rows), jnp.shape(columns)) != _factor_shapes(_layout.shape_of(g), axes):
            raise ValueError(
                "the state's factored moments are of another layout than the gradients', at "
                f"{leaf.name or 'one array'}: init must see the same parameters, with the same "
                "layers=Layers(stacked=...)."
            )


def split(nu: Any) -> list[jax.Array | Factors]:
    """The second moment of each leaf, in the order of the leaves."""
    if not isinstance(nu, FactoredMoments):
        return jax.tree.leaves(nu)
    parts = zip(*(jax.tree.leaves(tree) for tree in nu), strict=True)
    return [Factors(rows, columns) if rows.ndim else full for rows, columns, full in parts]


def like_parameters(nu: Any) -> Any:
    """A tree with the paths and shapes of the parameters whose second moments these are."""
    if not isinstance(nu, FactoredMoments):
        return nu
    shapes = [
        jax.ShapeDtypeStruct(tuple(map(max, m.rows.shape, m.columns.shape)), m.rows.dtype)
        if isinstance(m, Factors)
        else m
        for m in split(nu)
    ]
    return jax.tree.unflatten(jax.tree.structure(nu.full), shapes)


def join(like: Any, moments: list[jax.Array | Factors]) -> Any:
    """The inverse of :func:`split`, for a tree of second moments like another one."""
    if not isinstance(like, FactoredMoments):
        return jax.tree.unflatten(jax.tree.structure(like), moments)
    none = jnp.zeros([])
    parts = [(*nu, none) if isinstance(nu, Factors) else (none, none, nu) for nu in moments]
    return FactoredMoments(
        *(
            jax.tree.unflatten(jax.tree.structure(tree), [part[i] for part in parts])
            for i, tree in enumerate(like)
        )
    )


def accumulate(nu: jax.Array | Factors, deviation: jax.Array, b2: Any, accept: Any) -> Any:
    """One step of the moving average of squares, in float32; where not accepted, as it was."""
    # Not (1 - b2) * (x * x): XLA would share x * x with the norms, and write it down to do so.
    new = ((1 - b2) * deviation * jnp.conj(deviation)).real

    def average(old: jax.Array, new: jax.Array) -> jax.Array:
        old = old.astype(new.dtype)
        return keep(accept, b2 * old + new, old)

    if not isinstance(nu, Factors):
        return average(nu, new)
    row, column = _kept_axes(nu)
    return Factors(
        average(nu.rows, jnp.mean(new, axis=column, keepdims=True)),
        average(nu.columns, jnp.mean(new, axis=row, keepdims=True)),
    )


def estimate(nu: jax.Array | Factors) -> jax.Array:
    """v_t for each parameter, in at least float32, from what is kept of it."""
    if not isinstance(nu, Factors):
        return nu.astype(_real_wide(nu))
    row, _ = _kept_axes(nu)
    mean = jnp.mean(nu.rows, axis=row, keepdims=True)
    safe = jnp.where(mean > 0, mean, 1.0)
    # The quotient first: the product of two small means can underflow. So can the square of one, by
    # which the slope of a quotient divides: that of a quotient by 1 does not.
    size = jax.lax.stop_gradient(safe)
    return (nu.rows / size) / (safe / size) * nu.columns


def store(nu: jax.Array | Factors, like: jax.Array | Factors, seed: jax.Array) -> Any:
    """A second moment in the dtype that its predecessor is kept in."""
    if isinstance(nu, Factors):
        assert isinstance(like, Factors)
        return Factors(nu.rows.astype(like.rows.dtype), nu.columns.astype(like.columns.dtype))
    assert not isinstance(like, Factors)
    if like.dtype == jnp.bfloat16:
        return round_to_bfloat16(nu, seed)
    return nu.astype(like.dtype)


def keep(accept: Any, new: Any, old: Any) -> Any:
    """The new value where the step is accepted (or nobody asks), the old one where it is not."""
    return new if accept is None else jnp.where(accept, new, old)


def _check_whole(
    tree: Any,
    leaves: Sequence[_layout.Leaf],
    matrices: Sequence[tuple[int, int] | None],
    axis_name: AxisName,
) -> None:
    """Raises ValueError for a matrix of which each device has a part, where that can be known."""
    for leaf, axes, x in zip(leaves, matrices, jax.tree.leaves(tree), strict=True):
        names = _meshes.summed_axes(axis_name, x)
        if axes is not None and names:
            raise ValueError(
                f"second_moment='factored' needs whole matrices, but {leaf.name or 'one array'} is "
                f"split over the mesh axes {', '.join(names)} inside shard_map: use automatic axes "
                "for it, or second_moment=None."
            )


def _factor_shapes(shape: tuple[int, ...], axes: tuple[int, int] | None) -> Any:
    """The shapes of a leaf's rows and columns."""
    if axes is None:
        return (), ()
    columns, rows = (
        tuple(1 if axis == averaged else size for axis, size in enumerate(shape))
        for averaged in axes
    )
    return rows, columns


def _matrix_axes(params: Any, leaves: Sequence[_layout.Leaf]) -> list[tuple[int, int] | None]:
    """The two longest axes of each leaf in their order, its axis of layers apart."""
    axes: list[tuple[int, int] | None] = []
    for leaf, p in zip(leaves, jax.tree.leaves(params), strict=True):
        shape = _layout.shape_of(p)
        long = [axis for axis, size in enumerate(shape) if axis != leaf.axis and size > 1]
        chosen = sorted(sorted(long, key=lambda axis: shape[axis])[-2:])
        axes.append((chosen[0], chosen[1]) if len(chosen) == 2 else None)
    return axes


def _zero_parts(
    zeros: jax.Array, axes: tuple[int, int] | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A leaf's rows, columns and full moment. Means of the zeros keep how they are sharded."""
    if axes is None:
        return jnp.zeros([]), jnp.zeros([]), zeros  # Two: a buffer that is donated is donated once.
    row, column = axes
    return (
        jnp.mean(zeros, axis=column, keepdims=True),
        jnp.mean(zeros, axis=row, keepdims=True),
        jnp.zeros([]),
    )


def _kept_axes(nu: Factors) -> tuple[int, int]:
    """The axes that the rows and the columns keep: where the other is 1 long."""
    row, column = (
        axis
        for axis, (r, c) in enumerate(zip(nu.rows.shape, nu.columns.shape, strict=True))
        if r != c
    )
    return row, column


def _real_wide(x: Any) -> Any:
    return jnp.promote_types(jnp.finfo(jnp.result_type(x)).dtype, jnp.float32)


def round_to_bfloat16(x: jax.Array, seed: jax.Array) -> jax.Array:
    """Rounds to one of the two nearest bfloat16 numbers, to ``x`` itself in the mean.

    Numbers that bfloat16 holds exactly, infinities and NaN among them, stay as they are.

    Args:
      x: an array of real numbers, of any shape; read as float32.
      seed: an unsigned 32-bit integer. The same seed rounds the same array alike, on every mesh.
    """
    x = x.astype(jnp.float32)
    # A float32 is a bfloat16 and 16 bits more. Random bits added to those carry into the bfloat16
    # as often as their value says, and the rest is cut off.
    noise = _mixed(_positions(x.shape) ^ seed) & jnp.uint32(0xFFFF)
    raised = jax.lax.bitcast_convert_type(x, jnp.uint32) + noise
    rounded = jax.lax.bitcast_convert_type(raised & jnp.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(jnp.bfloat16)


def rounding_seed(count: jax.Array, leaf: int) -> jax.Array:
    """A seed for one leaf at one step."""
    return _mixed(_mixed(count.astype(jnp.uint32)) + jnp.uint32(leaf))


def _positions(shape: tuple[int, ...]) -> jax.Array:
    """The number of each entry; its global one also where the array is sharded."""
    positions, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        step = jnp.uint32(stride % 2**32)
        positions += step * jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        stride *= shape[axis]
    return positions


def _mixed(x: jax.Array) -> jax.Array:
    """A hash of 32 bits: Ettinger's ``lowbias32``.

    Not ``jax.random.bits``: its Threefry made the update four times as long as float32 moments do
    on a CPU, and this, which fuses into the update and reads no memory, made it shorter.
    """
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x ^ (x >> 15)
