"""Matrix products whose result is float32 although their operands are not."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def einsum_float32(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """``jnp.einsum`` that accumulates and returns float32, with a backward pass in x's dtype.

    JAX's own derivative would multiply the float32 gradient by the operands in float32, which
    takes tensor cores at least twice as long as half precision. Here the gradient is rounded to
    the dtype of the operands first, as it is after every other product of the model.

    Args:
        equation: An einsum of two operands.
        x: The left operand.
        y: The right operand, of the same dtype.

    Returns:
        The product, float32.

    Examples:
        >>> x = jnp.ones((2, 3), jnp.bfloat16)
        >>> einsum_float32("TD,SD->TS", x, x).dtype.name
        'float32'
        >>> jax.grad(lambda x: einsum_float32("TD,SD->TS", x, x).sum())(x).dtype.name
        'bfloat16'
    """
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)


def _forward(
    equation: str, x: jax.Array, y: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return einsum_float32(equation, x, y), (x, y)


def _backward(
    equation: str, operands: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, ...]:
    _, pull_back = jax.vjp(functools.partial(jnp.einsum, equation), *operands)
    return pull_back(gradient.astype(operands[0].dtype))


einsum_float32.defvjp(_forward, _backward)
