"""Meshes with explicit axes, where an array's sharding is part of its type.

There a product of two sharded dimensions, a reshape of one, or a ``vmap`` over arrays that are
sharded differently is an error. What does such things inside leaves its shardings to the compiler.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType


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
