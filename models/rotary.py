"""Rotary position embeddings (Su et al. 2021, arXiv:2104.09864), restarting at every document.

Shapes: B batch, T tokens, N heads, H head dimension, R = H / 2 rotated pairs.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Rotation(NamedTuple):
    """The angle of every rotated pair at every position, as cosine and sine.

    Both are float32 [B, T, R]; a first dimension of 1 says that all sequences share positions.
    """

    cos: jax.Array
    sin: jax.Array


def segment_positions(segment_ids_BT: jax.Array) -> jax.Array:
    """Counts positions from 0 within each document of a packed sequence.

    Args:
        segment_ids_BT: Integers; the tokens of one document are neighbours and share an id.

    Returns:
        int32 positions [B, T].

    Examples:
        >>> segment_positions(jnp.array([[7, 7, 7, 8, 8, 9]]))
        Array([[0, 1, 2, 0, 1, 0]], dtype=int32)
    """
    index_BT = jnp.broadcast_to(jnp.arange(segment_ids_BT.shape[1]), segment_ids_BT.shape)
    previous_BT = jnp.roll(segment_ids_BT, 1, axis=1)
    starts_BT = jnp.where(segment_ids_BT != previous_BT, index_BT, 0)
    return index_BT - jax.lax.cummax(starts_BT, axis=1)


def rotation(positions_BT: jax.Array | np.ndarray, head_dim: int, theta: float) -> Rotation:
    """Computes the angles once for all layers: position / theta^(2r / H) for pair r.

    Args:
        positions_BT: Integer positions [B, T], or [1, T] when all sequences share them. Those of
            NumPy give constants: of what is computed, XLA's CPU backend puts a copy into every
            loop that reads it, and takes each sine anew for every sequence, head and layer.
        head_dim: H, even.
        theta: Base of the geometric sequence of wavelengths.

    Returns:
        Cosines and sines, float32 [B, T, H / 2].
    """
    xp: Any = np if isinstance(positions_BT, np.ndarray) else jnp
    exponents_R = xp.arange(0, head_dim, 2, dtype=np.float32) / head_dim
    angles_BTR = positions_BT[..., None].astype(np.float32) * theta**-exponents_R
    return Rotation(xp.cos(angles_BTR), xp.sin(angles_BTR))


def rotate(x_BTNH: jax.Array, rotation: Rotation) -> jax.Array:
    """Turns the pairs (x_r, x_{r + H/2}) of every head by their angles; eq. 34 of the paper.

    The paper pairs neighbours; pairing the two halves is the same map up to a fixed permutation
    of the head dimension, and contiguous halves are faster to read.

    Args:
        x_BTNH: Queries or keys.
        rotation: Angles that broadcast against the tokens of x.

    Returns:
        The turned heads in x's dtype; the arithmetic is float32.

    Examples:
        >>> quarter_turn = Rotation(jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1)))
        >>> rotate(jnp.array([[[[3.0, 5.0]]]]), quarter_turn).ravel().tolist()
        [-5.0, 3.0]
    """
    first_BTNR, second_BTNR = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    cos_BT1R, sin_BT1R = rotation.cos[:, :, None], rotation.sin[:, :, None]
    turned_BTNH = jnp.concatenate(
        [
            first_BTNR * cos_BT1R - second_BTNR * sin_BT1R,
            second_BTNR * cos_BT1R + first_BTNR * sin_BT1R,
        ],
        axis=-1,
    )
    return turned_BTNH.astype(x_BTNH.dtype)
