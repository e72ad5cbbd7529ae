"""The matrix product of the model: an einsum whose backward pass is written down.

JAX would derive it, at two costs that are avoided here. It forms weight gradients transposed and
copies them into shape, which takes XLA's CPU backend half as long again as the products
themselves. And where half-precision operands give a float32 result, it multiplies the float32
gradient in float32, at half the speed of tensor cores or less.

A third cost is `jnp.einsum`'s own: it contracts in alphabetical order. Heads that lie in memory as
[N, H] would be contracted as (H, N), and XLA's CPU backend copies activations and kernel for that.
"""

import functools
import string

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def product(
    equation: str, x: jax.Array, y: jax.Array, result_dtype: DTypeLike | None = None
) -> jax.Array:
    """``jnp.einsum(equation, x, y)``, backward in the dtype of the operands.

    Gradients of gradients work, forward over reverse included; forward mode alone does not.

    Args:
        equation: An einsum of two operands of the same dtype, without ellipses, in which every
            letter of an operand occurs in the other operand or in the result.
        x: The left operand.
        y: The right operand.
        result_dtype: The dtype to accumulate and return. None means the operands' own.

    Returns:
        The product.

    Examples:
        >>> x = jnp.ones((2, 3), jnp.bfloat16)
        >>> product("TD,SD->TS", x, x, jnp.float32).dtype.name
        'float32'
        >>> jax.grad(lambda x: product("TD,SD->TS", x, x, jnp.float32).sum())(x).dtype.name
        'bfloat16'
    """
    return _einsum(equation, x, y, result_dtype)


Operands = tuple[jax.Array, jax.Array]


def _forward(
    equation: str, x: jax.Array, y: jax.Array, result_dtype: DTypeLike | None
) -> tuple[jax.Array, Operands]:
    return _einsum(equation, x, y, result_dtype), (x, y)


def _backward(
    equation: str, result_dtype: DTypeLike | None, operands: Operands, gradient: jax.Array
) -> Operands:
    inputs, result = equation.split("->")
    left, right = inputs.split(",")
    x, y = operands
    gradient = gradient.astype(x.dtype)
    return (
        _einsum(f"{result},{right}->{left}", gradient, y),
        _einsum(f"{left},{result}->{right}", x, gradient),
    )


product.defvjp(_forward, _backward)


def _einsum(
    equation: str, x: jax.Array, y: jax.Array, result_dtype: DTypeLike | None = None
) -> jax.Array:
    """`jnp.einsum` that contracts in the order of the left operand."""
    letters = dict.fromkeys(filter(str.isalpha, equation))
    alphabetical = str.maketrans(dict(zip(letters, string.ascii_lowercase, strict=False)))
    with jax.named_scope(equation):  # Traces show the letters that the model uses.
        return jnp.einsum(
            equation.translate(alphabetical), x, y, preferred_element_type=result_dtype
        )
