"""Arrays that are spread over devices, where the type of an array says how.

*Manual* mesh axes, inside ``jax.shard_map``: each device sees its own part of an array, so a norm
computed there is the norm of the part. Under JAX's default ``check_vma=True`` the type says over
which axes a value varies between devices; sums are taken over these axes, and what does not vary is
counted once.

*Explicit* mesh axes: the sharding is part of the type, and a product of two sharded dimensions, a
reshape of one, or a ``vmap`` over arrays that are sharded differently is an error. Code that does
such things leaves its shardings to the compiler.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
from jax.sharding import AxisType

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


def on_explicit_axes() -> bool:
    """Whether shardings are types here."""
    return AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types


def specs(tree: Any) -> Any:
    """The partition spec of each array of a tree, on a mesh with explicit axes."""
    return jax.tree.map(lambda x: jax.typeof(x).sharding.spec, tree)


def on_automatic_axes(function: Callable[..., Any], out_specs: Any, *arguments: Any) -> Any:
    """Calls a function whose shardings inside are the compiler's, and whose results have specs.

    It may not close over arrays: those come as arguments. What is no array (a Python number, whose
    dtype is weak) reaches the function as it is.
    """
    leaves, structure = jax.tree.flatten(arguments)
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]

    def call(*arrays: jax.Array) -> Any:
        given = [*leaves]
        for place, array in zip(places, arrays, strict=True):
            given[place] = array
        return function(*jax.tree.unflatten(structure, given))

    automatic = jax.sharding.auto_axes(call, out_sharding=out_specs)
    return automatic(*(leaves[place] for place in places))
