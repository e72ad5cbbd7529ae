"""Checks of arguments, each with one sentence that names the argument, its value and the way out.

A number may be a tracer or an array (``optax.inject_hyperparams`` makes one of every number), about
which nothing can be asked while a program is traced: only Python's and NumPy's numbers are checked.
"""

import itertools
import math
from collections.abc import Callable, Collection
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from optax_strat import _paths


def is_number(value: Any) -> TypeGuard[float]:
    """Whether the value is a concrete Python or NumPy number, and no Boolean."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def check_number(name: str, value: Any) -> None:
    """Raises ValueError for what is neither a number nor an array or a tracer in its place."""
    if not (is_number(value) or hasattr(value, "dtype")):
        way_out = ": optax.inject_hyperparams takes schedules" if callable(value) else ""
        raise ValueError(f"{name} must be a number, but it is {value!r}{way_out}.")


def check_positive(name: str, value: Any) -> None:
    """Raises ValueError unless the number is finite and above zero."""
    check_number(name, value)
    if is_number(value) and not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0, but it is {value!r}.")


def check_count(name: str, value: Any) -> None:
    """Raises ValueError unless the number is whole and above zero."""
    check_number(name, value)
    if is_number(value) and not (value >= 1 and float(value).is_integer()):
        raise ValueError(f"{name} must be a whole number above 0, but it is {value!r}.")


def check_not_negative(name: str, value: Any) -> None:
    """Raises ValueError unless the number is finite and zero or above."""
    check_number(name, value)
    if is_number(value) and not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number, 0 or above, but it is {value!r}.")


def check_decay(name: str, value: Any) -> None:
    """Raises ValueError unless the number can be the decay rate of a moving average."""
    check_number(name, value)
    if is_number(value) and not 0 <= value < 1:
        raise ValueError(f"{name} must lie in [0, 1), but it is {value!r}.")


def check_choice(name: str, value: Any, allowed: Collection[str | None]) -> None:
    """Raises ValueError unless the value is one of those allowed."""
    if value not in allowed:
        options = ", ".join(repr(option) for option in allowed)
        raise ValueError(f"{name} must be one of {options}, but it is {value!r}.")


def check_bounds(name: str, bounds: tuple[Any, Any] | None) -> None:
    """Raises ValueError unless the bounds are None or a pair of numbers in order."""
    if bounds is None:
        return
    if not isinstance(bounds, tuple) or len(bounds) != 2:
        raise ValueError(f"{name} must be a pair (lowest, highest) or None, but it is {bounds!r}.")
    low, high = bounds
    check_not_negative(f"{name}[0]", low)
    check_positive(f"{name}[1]", high)
    if is_number(low) and is_number(high) and low > high:
        raise ValueError(f"{name} must be in order (lowest, highest), but it is {bounds!r}.")


def floating_dtype(name: str, dtype: Any) -> np.dtype | None:
    """The floating-point dtype that a dtype or its name means; None stays None."""
    if dtype is None:
        return None
    try:
        result = jnp.dtype(dtype)
    except TypeError as error:
        raise ValueError(
            f"{name} must be a floating-point dtype or its name, but it is {dtype!r}."
        ) from error
    if not jnp.issubdtype(result, jnp.inexact):
        raise ValueError(f"{name} must be a floating-point dtype, but it is {result.name!r}.")
    return result


def check_arrays(params: Any) -> None:
    """Raises ValueError for a leaf that is no array of numbers, such as a function or a key."""
    fault = _first_fault(params, _is_of_numbers)
    if fault is None:
        return
    path, leaf = fault
    if _dtype(leaf) is None:
        raise ValueError(
            f"parameters must be arrays, but {path} is {leaf!r}: leave it out, as "
            "equinox.filter(model, equinox.is_inexact_array) or nnx.state(model, nnx.Param) do."
        )
    raise ValueError(
        f"parameters must be arrays of numbers, but {path} is a PRNG key: leave it out, or mask it "
        "with optax.masked."
    )


def check_parameters(params: Any) -> None:
    """Raises ValueError for a parameter that has no gradient, such as a whole number."""
    check_arrays(params)
    fault = _first_fault(params, lambda leaf: jnp.issubdtype(_dtype(leaf), jnp.inexact))
    if fault is not None:
        path, leaf = fault
        raise ValueError(
            f"parameters must be floating-point or complex, but {path} is {_dtype(leaf)}: leave it "
            "out, or mask it with optax.masked."
        )


def _first_fault(params: Any, is_fine: Callable[[Any], bool]) -> tuple[str, Any] | None:
    """The first leaf that is not fine, with its path, which takes time: only then it is made."""
    if all(map(is_fine, jax.tree.leaves(params))):
        return None
    named = ((_joined(path), leaf) for path, leaf in _paths.named_leaves(params))
    return next((path, leaf) for path, leaf in named if not is_fine(leaf))


def _is_of_numbers(leaf: Any) -> bool:
    dtype = _dtype(leaf)
    return dtype is not None and not jnp.issubdtype(dtype, jax.dtypes.extended)


def _dtype(leaf: Any) -> Any:
    """The dtype of an array, a number or a shape; None of anything else."""
    if hasattr(leaf, "dtype"):
        return leaf.dtype
    return jnp.result_type(leaf) if isinstance(leaf, (bool, int, float, complex)) else None


def check_gradients(updates: Any, mu: Any) -> None:
    """Raises ValueError unless the gradients have the paths and shapes of the first moments.

    Containers may differ: those of NNX variables, there at ``init``, may be gone at ``update``.
    """
    gradients, moments = jax.tree.leaves(updates), jax.tree.leaves(mu)
    same_tree: bool = jax.tree.structure(updates) == jax.tree.structure(mu)  # type: ignore[operator]
    if same_tree and all(map(_same_shape, gradients, moments)):
        return
    for found, wanted in itertools.zip_longest(*map(_paths.named_leaves, (updates, mu))):
        if _described(found) != _described(wanted):
            raise ValueError(
                "the gradients must match the parameters given to init, but where those have "
                f"{_described(wanted)}, the gradients have {_described(found)}."
            )


def _same_shape(x: Any, y: Any) -> bool:
    return jnp.shape(x) == jnp.shape(y)


def _described(named_leaf: tuple[tuple[str, ...], Any] | None) -> str:
    if named_leaf is None:
        return "nothing"
    path, leaf = named_leaf
    return f"{_joined(path)} of shape {jnp.shape(leaf)}"


def _joined(path: tuple[str, ...]) -> str:
    return "/".join(path) or "one array"
