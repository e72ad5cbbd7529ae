r"""Stochastic rounding to bfloat16.

A second moment in bfloat16 that is rounded to the nearest number never moves: with
:math:`\beta_2 = 0.999` a step changes it by a thousandth, and the next bfloat16 is four
thousandths away. Rounded up with a probability that is the distance already gone, it moves as it
should in the mean.

References:
  Zamirai et al., `Revisiting BFloat16 Training <https://arxiv.org/abs/2010.06192>`_, 2020
"""

import jax
import jax.numpy as jnp


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
