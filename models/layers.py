"""The parts of a block: RMSNorm, rotary grouped-query attention, SwiGLU, and the block itself.

Shapes: B batch, T tokens, D width, N query heads, K key and value heads, H head dimension,
F hidden width of the MLP.

Initialization is GPT-2's (Radford et al. 2019, section 2.3; std in the published code): normal
with std 0.02, and the two projections that write into the residual stream divided by sqrt(2 L),
so that the variance of the stream does not grow with the number L of layers.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from models.attention import attend, resolve_kind
from models.config import TransformerConfig
from models.products import product
from models.rotary import Rotation, rotate

INITIAL_STD = 0.02

AXES = {
    "D": "embed",
    "F": "mlp",
    "H": "head_dim",
    "K": "kv_heads",
    "N": "heads",
    "V": "vocab",
}  # The logical name, for sharding rules, of every dimension that a kernel can have.


def annotate(*axes: str | None) -> dict[str, object]:
    """Metadata that names each dimension of a parameter for sharding rules.

    The names are logical: the mesh is chosen outside, so Flax must not shard at creation.
    """
    return {"out_sharding": axes, "eager_sharding": False}


def projection(
    equation: str,
    config: TransformerConfig,
    rngs: nnx.Rngs,
    *,
    into_stream: bool = False,
    result_dtype: DTypeLike | None = None,
) -> nnx.Einsum:
    """A learned matrix; the letters of its einsum say its shape and the names of its axes.

    Args:
        equation: Of activations and kernel, such as "BTD,DNH->BTNH".
        config: Gives the sizes and the compute dtype.
        rngs: Gives the kernel's key.
        into_stream: Whether the result is added to the residual stream, so starts smaller.
        result_dtype: As in `models.products.product`.
    """
    sizes = {
        "D": config.d_model,
        "F": config.d_ff,
        "H": config.head_dim,
        "K": config.key_value_heads,
        "N": config.heads,
        "V": config.vocab_size,
    }
    letters = equation.split("->")[0].split(",")[1]
    std = INITIAL_STD / (2 * config.layers) ** 0.5 if into_stream else INITIAL_STD
    return nnx.Einsum(
        equation,
        tuple(sizes[letter] for letter in letters),
        dtype=config.dtype,
        preferred_element_type=result_dtype,
        kernel_init=jax.nn.initializers.normal(std),
        kernel_metadata=annotate(*(AXES[letter] for letter in letters)),
        einsum_op=_product,
        rngs=rngs,
    )


def _product(
    equation: str,
    x: jax.Array,
    kernel: jax.Array,
    *,
    preferred_element_type: DTypeLike | None = None,
    **_: object,  # Flax also passes a precision and a sharding, which are left to the compiler.
) -> jax.Array:
    return product(equation, x, kernel, preferred_element_type)


def rms_norm(config: TransformerConfig, rngs: nnx.Rngs) -> nnx.RMSNorm:
    """RMSNorm in float32 (Zhang and Sennrich 2019, arXiv:1910.07467).

    Its scale is too small to be worth sharding and is left whole on every device.
    """
    return nnx.RMSNorm(
        config.d_model,
        epsilon=config.norm_eps,
        dtype=jnp.float32,
        scale_metadata=annotate(None),
        rngs=rngs,
    )


class Attention(nnx.Module):
    """Causal self-attention with rotary positions and grouped queries, without biases."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs) -> None:
        self.query = projection("BTD,DNH->BTNH", config, rngs)
        self.key = projection("BTD,DKH->BTKH", config, rngs)
        self.value = projection("BTD,DKH->BTKH", config, rngs)
        self.out = projection("BTNH,NHD->BTD", config, rngs, into_stream=True)
        self.config = config

    def __call__(
        self, x_BTD: jax.Array, rotation: Rotation, mask_BTS: jax.Array | None
    ) -> jax.Array:
        """Lets every token read the earlier tokens that the mask allows."""
        kind = resolve_kind(self.config, jax.default_backend())
        query_BTNH = rotate(self.query(x_BTD), rotation)
        key_BTKH = rotate(self.key(x_BTD), rotation)
        return self.out(attend(query_BTNH, key_BTKH, self.value(x_BTD), mask_BTS, kind))


class SwiGLU(nnx.Module):
    """The gated MLP ``down(silu(gate(x)) * up(x))`` (Shazeer 2020, arXiv:2002.05202, eq. 6)."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs) -> None:
        self.gate = projection("BTD,DF->BTF", config, rngs)
        self.up = projection("BTD,DF->BTF", config, rngs)
        self.down = projection("BTF,FD->BTD", config, rngs, into_stream=True)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Transforms every token on its own."""
        return self.down(jax.nn.silu(self.gate(x_BTD)) * self.up(x_BTD))


class Block(nnx.Module):
    """One pre-norm layer: ``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs) -> None:
        self.attention_norm = rms_norm(config, rngs)
        self.attention = Attention(config, rngs=rngs)
        self.mlp_norm = rms_norm(config, rngs)
        self.mlp = SwiGLU(config, rngs=rngs)

    def __call__(
        self, x_BTD: jax.Array, rotation: Rotation, mask_BTS: jax.Array | None
    ) -> jax.Array:
        """Adds what attention and the MLP say to the residual stream."""
        x_BTD += self.attention(self.attention_norm(x_BTD), rotation, mask_BTS)
        return x_BTD + self.mlp(self.mlp_norm(x_BTD))
