"""The parts of a block: RMSNorm, rotary grouped-query attention, SwiGLU, and the block itself.

Shapes: B batch, T tokens, D width, N query heads, K key and value heads, H head dimension,
F hidden width of the MLP, P projections side by side in one product.

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


def reads_once(config: TransformerConfig) -> bool:
    """Whether projections of the same activations are computed as one product.

    It reads the activations once, and makes one gradient of them instead of a sum. That saves a
    tenth of what a step moves on a GPU. On a CPU, gate and up are a tenth slower as one.
    """
    return resolve_kind(config, jax.default_backend()) != "head_major"


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
        query_BTNH, key_BTKH, value_BTKH = self._queries_keys_values(x_BTD)
        query_BTNH, key_BTKH = rotate(query_BTNH, rotation), rotate(key_BTKH, rotation)
        kind = resolve_kind(self.config, jax.default_backend())
        return self.out(attend(query_BTNH, key_BTKH, value_BTKH, mask_BTS, kind))

    def _queries_keys_values(self, x_BTD: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        if not reads_once(self.config):
            return self.query(x_BTD), self.key(x_BTD), self.value(x_BTD)
        # Side by side within a key head, so that a mesh can split them by heads: P = N / K + 2.
        query_DNH, key_DKH, value_DKH = (
            projection.kernel[...].astype(self.config.dtype)
            for projection in (self.query, self.key, self.value)
        )
        D, K, H = key_DKH.shape
        kernels = query_DNH.reshape(D, K, -1, H), key_DKH[:, :, None], value_DKH[:, :, None]
        heads_BTKPH = product(
            "BTD,DKPH->BTKPH", x_BTD.astype(self.config.dtype), jnp.concatenate(kernels, axis=2)
        )
        query_BTNH = heads_BTKPH[..., :-2, :].reshape(*x_BTD.shape[:2], -1, H)
        return query_BTNH, heads_BTKPH[..., -2, :], heads_BTKPH[..., -1, :]


class SwiGLU(nnx.Module):
    """The gated MLP ``down(silu(gate(x)) * up(x))`` (Shazeer 2020, arXiv:2002.05202, eq. 6)."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs) -> None:
        self.gate = projection("BTD,DF->BTF", config, rngs)
        self.up = projection("BTD,DF->BTF", config, rngs)
        self.down = projection("BTF,FD->BTD", config, rngs, into_stream=True)
        self.config = config

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Transforms every token on its own."""
        gate_BTF, up_BTF = self._gate_and_up(x_BTD)
        return self.down(jax.nn.silu(gate_BTF) * up_BTF)

    def _gate_and_up(self, x_BTD: jax.Array) -> tuple[jax.Array, jax.Array]:
        if not reads_once(self.config):
            return self.gate(x_BTD), self.up(x_BTD)
        dtype = self.config.dtype
        kernels = self.gate.kernel[...].astype(dtype), self.up.kernel[...].astype(dtype)
        both_BTPF = product("BTD,DPF->BTPF", x_BTD.astype(dtype), jnp.stack(kernels, axis=1))
        return both_BTPF[:, :, 0], both_BTPF[:, :, 1]


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
