"""The manual mesh axes over which a value differs between devices, inside ``jax.shard_map``.

There every device sees its own part of an array, and a norm of it is that of the part. Under JAX's
default ``check_vma=True`` the type of a value says over which axes it varies, and sums are taken
over these; what does not vary is the same everywhere, and counted once.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax

AxisName: TypeAlias = str | tuple[str, ...] | None
"""The axes over which arrays are split that do not say so themselves."""


def varying_axes(x: Any) -> frozenset[str]:
    """The manual axes over which a value varies, as far as its type says so."""
    kind = jax.typeof(x)
    manual = getattr(kind, "manual_axis_type", None)  # JAX 0.10 and later
    if manual is not None:
        return frozenset(manual.varying)
    return frozenset(getattr(kind, "vma", ()))


def summed_axes(axis_name: AxisName, *arrays: Any) -> tuple[str, ...]:
    """The axes over which what is computed of the arrays must be added up."""
    axes = frozenset[str]().union(*map(varying_axes, arrays))
    named = (axis_name,) if isinstance(axis_name, str) else axis_name or ()
    return tuple(sorted(axes | {name for name in named if not _is_told(name)}))


def sum_over(parts: Sequence[jax.Array], axes: Sequence[tuple[str, ...]]) -> list[jax.Array]:
    """Adds up each part over its axes, those with the same ones together."""
    summed = list(parts)
    for group in dict.fromkeys(axes):
        members = [index for index, mine in enumerate(axes) if mine == group]
        if group:
            totals = jax.lax.psum([parts[index] for index in members], group)
            for index, total in zip(members, totals, strict=True):
                summed[index] = total
    return summed


def anywhere(flag: jax.Array, axis_name: AxisName, *arrays: Any) -> jax.Array:
    """Whether a flag, computed of the arrays, is set on any of the devices that share them."""
    axes = summed_axes(axis_name, *arrays)
    return jax.lax.pmax(flag.astype("int32"), axes) > 0 if axes else flag


def vary_alike(x: jax.Array, like: Any) -> jax.Array:
    """The value, with a type that varies over at least the axes of another one's."""
    missing = tuple(sorted(varying_axes(like) - varying_axes(x)))
    if not missing:
        return x
    if hasattr(jax.lax, "pcast"):  # JAX 0.9 and later
        return jax.lax.pcast(x, missing, to="varying")
    pvary: Callable[..., jax.Array] = getattr(jax.lax, "pvary")  # noqa: B009
    return pvary(x, missing)


def _is_told(axis: str) -> bool:
    """Whether types say what varies over an axis: under ``check_vma`` a device's own number does.

    Then arrays that do not vary are whole on every device, and must not be added up.
    """
    return axis in varying_axes(jax.lax.axis_index(axis))
