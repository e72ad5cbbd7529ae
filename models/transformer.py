"""The decoder-only transformer as a Flax NNX module: tokens_BT -> logits_BTV.

Shapes: B batch, T tokens, S tokens read (S = T), D width, V vocabulary, L layers.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.config import TransformerConfig
from models.layers import INITIAL_STD, Block, annotate, projection, rms_norm
from models.products import product
from models.rotary import Rotation, rotation, segment_positions
from models.sharding import constrain, gather


class Transformer(nnx.Module):
    """Embedding, L blocks, a final norm and a head.

    The blocks live in ONE `Block` whose parameters carry a leading dimension L, each slice
    initialized from a key of its own.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs) -> None:
        @nnx.vmap(transform_metadata={nnx.PARTITION_NAME: "layers"})
        def stacked_blocks(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs=rngs)

        self.embed = nnx.Embed(
            config.vocab_size,
            config.d_model,
            embedding_init=jax.nn.initializers.normal(INITIAL_STD),
            embedding_metadata=annotate("vocab", "embed"),
            rngs=rngs,
        )
        self.layers = stacked_blocks(rngs.split(config.layers))
        self.final_norm = rms_norm(config, rngs)
        if not config.tied_head:
            self.head = projection("BTD,DV->BTV", config, rngs, result_dtype=jnp.float32)
        self.config = config

    def features(self, tokens_BT: jax.Array, segment_ids_BT: jax.Array | None = None) -> jax.Array:
        """Everything before the head: the normalized residual stream, [B, T, D] in config.dtype."""
        dtype = self.config.dtype
        positions_BT: jax.Array | np.ndarray
        if segment_ids_BT is None:
            positions_BT = np.arange(tokens_BT.shape[1])[None]
            mask_BTS = None
        else:
            positions_BT = segment_positions(segment_ids_BT)
            mask_BTS = segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
        angles = rotation(positions_BT, self.config.head_dim, self.config.rope_theta)
        # Looked up in float32, so that the gradient of a frequent token is summed in float32.
        table_VD = gather(self.embed.embedding[...], ("vocab", None))
        x_BTD = _stream(jnp.take(table_VD, tokens_BT, axis=0).astype(dtype))
        return self.final_norm(self._run_layers(x_BTD, angles, mask_BTS)).astype(dtype)

    def unembed(self, x_BTD: jax.Array) -> jax.Array:
        """The head alone: features to float32 logits [B, T, V]."""
        if not self.config.tied_head:
            return self.head(x_BTD)
        embedding_VD = self.embed.embedding[...].astype(self.config.dtype)
        return product("BTD,VD->BTV", x_BTD, embedding_VD, jnp.float32)

    def __call__(self, tokens_BT: jax.Array, segment_ids_BT: jax.Array | None = None) -> jax.Array:
        """Float32 logits [B, T, V] of every next token."""
        return self.unembed(self.features(tokens_BT, segment_ids_BT))

    def _run_layers(
        self, x_BTD: jax.Array, angles: Rotation, mask_BTS: jax.Array | None
    ) -> jax.Array:
        graph, stacked = nnx.split(self.layers)

        def layer(x_BTD: jax.Array, params: nnx.State) -> tuple[jax.Array, None]:
            return _stream(nnx.merge(graph, params)(x_BTD, angles, mask_BTS)), None

        if self.config.remat != "none":
            policy = {
                "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
                "full": jax.checkpoint_policies.nothing_saveable,
            }[self.config.remat]
            # Unrolled, the compiler would find that it computes the same twice, and keep it.
            layer = jax.checkpoint(layer, policy=policy, prevent_cse=self.config.unroll > 1)
        return jax.lax.scan(layer, x_BTD, stacked, unroll=self.config.unroll)[0]


def _stream(x_BTD: jax.Array) -> jax.Array:
    """The residual stream is split by batch alone, so that weights are gathered and not it."""
    return constrain(x_BTD, "batch", None, None)
