"""An estimate of what a train step holds besides parameters, optimizer state and gradients.

It counts the arrays that the backward pass reads, as the model's equations have them. A compiler
fuses some away and adds others: compile where a tenth matters.
"""

from __future__ import annotations

from models.attention import resolve_kind
from train.config.run import Experiment
from train.tasks.loss import logit_tokens

GRADIENTS = 0.5
"""Bytes of a layer's gradients that exist at once, as a part of what the layer computes."""


def estimate_activations(config: Experiment, platform: str) -> float:
    """Bytes a device holds between forward and backward pass, when it holds the most.

    It came within 3 % of what the compiler counted for an H100 at 134M, unrolled: 16 sequences of
    4096 tokens with all kept, with 'dots' and with 'full' rematerialization, and 4 with all kept.

    Args:
      config: The experiment; `mesh.data` counts as 1 where it is None.
      platform: 'cpu', 'gpu' or 'tpu'; decides whether attention keeps its weights.
    """
    model, tensor = config.model, config.mesh.tensor
    shards = (config.mesh.data or 1) * config.mesh.fsdp
    tokens = config.tokens_per_step // shards // config.accumulate
    layer = _layer_bytes(config, platform)
    kept = {"none": layer, "dots": _dots_bytes(config), "full": _stream_bytes(config)}[model.remat]
    again = layer - kept
    if model.remat == "none" and model.unroll < model.layers:
        kept *= 2  # A rolled loop stacks what it keeps, float32 intermediates included.
    logits = logit_tokens(model, tokens, config.loss_chunk) * model.vocab_size / tensor
    # First the loss is at work, on float32 logits and their gradient in the compute dtype; then a
    # layer, on its gradients and on what it computes again.
    loss_bytes = (4 + _itemsize(config)) * logits
    return tokens * model.layers * kept + max(loss_bytes, tokens * (again + GRADIENTS * layer))


def _stream_bytes(config: Experiment) -> float:
    """A token's residual stream."""
    return _itemsize(config) * config.model.d_model


def _dots_bytes(config: Experiment) -> float:
    """A token's q, k, v, gate and up, what attention adds to the stream, and the layer's input."""
    model = config.model
    heads = model.d_model + 2 * model.key_value_heads * model.head_dim
    split = (heads + 2 * model.d_ff) / config.mesh.tensor
    return _itemsize(config) * (2 * model.d_model + split)


def _layer_bytes(config: Experiment, platform: str) -> float:
    """All that a layer keeps of a token: stream and norms; q, k, v and what is read; the MLP."""
    model = config.model
    heads = 2 * model.d_model + 2 * model.key_value_heads * model.head_dim
    split = (heads + 3 * model.d_ff) / config.mesh.tensor
    kept = _itemsize(config) * (4 * model.d_model + split)
    if resolve_kind(model, platform) != "cudnn":  # All weights of the attention to earlier tokens.
        kept += (4 + _itemsize(config)) * model.heads / config.mesh.tensor * config.context
    return kept


def _itemsize(config: Experiment) -> int:
    return 4 if config.model.dtype == "float32" else 2
