"""An estimate of what a train step holds besides parameters, optimizer state and gradients.

It counts the arrays that the backward pass reads, as the model's equations have them. A compiler
fuses some away and adds others: compile where a tenth matters.
"""

from __future__ import annotations

from models.attention import resolve_kind
from train.config import RunConfig
from train.loss import logit_tokens

BYTES_PER_LOGIT = 8
"""Logits and their gradient, in float32."""


def estimate_activations(config: RunConfig, platform: str) -> float:
    """Bytes a device holds between forward and backward pass, when it holds the most.

    It came within 8 % of what the compiler counted for an H100 at 134M and 16 sequences of 4096
    tokens: with all kept, unrolled and rolled, and with 'dots' and 'full' rematerialization.

    Args:
      config: The run; `mesh.data` counts as 1 where it is None.
      platform: 'cpu', 'gpu' or 'tpu'; decides whether attention keeps its weights.
    """
    model, tensor = config.model, config.mesh.tensor
    shards = (config.mesh.data or 1) * config.mesh.fsdp
    tokens = config.tokens_per_step // shards // config.accumulate
    layer = _layer_bytes(config, platform)
    kept = {"none": layer, "dots": _dots_bytes(config), "full": _stream_bytes(config)}[model.remat]
    if model.remat == "none" and model.unroll < model.layers:
        kept *= 2  # A rolled loop stacks what it keeps, float32 intermediates included.
    logits = logit_tokens(model, tokens, config.loss_chunk) * model.vocab_size / tensor
    # First the loss is at work, then a layer: on its gradients and on what it computes again.
    return tokens * model.layers * kept + max(BYTES_PER_LOGIT * logits, tokens * layer)


def _stream_bytes(config: RunConfig) -> float:
    """A token's residual stream."""
    return _itemsize(config) * config.model.d_model


def _dots_bytes(config: RunConfig) -> float:
    """A token's results of the weight matrices of a layer, and the layer's input."""
    model = config.model
    heads = model.d_model + 2 * model.key_value_heads * model.head_dim
    split = (heads + 2 * model.d_ff) / config.mesh.tensor
    return _itemsize(config) * (3 * model.d_model + split)


def _layer_bytes(config: RunConfig, platform: str) -> float:
    """All that a layer keeps of a token: stream and norms; q, k, v and what is read; the MLP."""
    model = config.model
    heads = 2 * model.d_model + 2 * model.key_value_heads * model.head_dim
    split = (heads + 3 * model.d_ff) / config.mesh.tensor
    kept = _itemsize(config) * (4 * model.d_model + split)
    if resolve_kind(model, platform) != "cudnn":  # All weights of the attention to earlier tokens.
        kept += (4 + _itemsize(config)) * model.heads / config.mesh.tensor * config.context
    return kept


def _itemsize(config: RunConfig) -> int:
    return 4 if config.model.dtype == "float32" else 2
