"""The model of `models` and its AdamW, written for PyTorch as its users write them for speed.

The same equations with the same parameters: RMSNorm, rotary halves, causal attention with grouped
queries, SwiGLU, an untied head, no biases. Where PyTorch has something fused it is used: one
product for queries, keys and values, `scaled_dot_product_attention`, `cross_entropy`, the update.

Shapes: B batch, T tokens, D width, N query heads, K key and value heads, H head dimension, V
vocabulary, R = H / 2 rotated pairs.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models import TransformerConfig
from train.optimizers import AdamW


class RMSNorm(nn.RMSNorm):
    """PyTorch's, its scale cast to the input's dtype: else it takes the slow way."""

    def forward(self, x: Tensor) -> Tensor:
        """Divides by the root mean square, which is computed in float32."""
        return functional.rms_norm(x, self.normalized_shape, self.weight.type_as(x), self.eps)


class Attention(nn.Module):
    """Causal self-attention; query head n reads key head n // (N / K)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = [config.heads, config.key_value_heads, config.key_value_heads]
        self.qkv = linear(config.d_model, sum(self.heads) * config.head_dim)
        self.out = linear(config.d_model, config.d_model)

    def forward(self, x_BTD: Tensor, cos_TH: Tensor, sin_TH: Tensor) -> Tensor:
        """Lets every token read the earlier ones."""
        heads_BTNH = self.qkv(x_BTD).unflatten(-1, (sum(self.heads), -1))
        query, key, value = heads_BTNH.transpose(1, 2).split(self.heads, dim=1)
        read_BNTH = functional.scaled_dot_product_attention(
            rotate(query, cos_TH, sin_TH),
            rotate(key, cos_TH, sin_TH),
            value,
            is_causal=True,
            enable_gqa=self.heads[0] != self.heads[1],
        )
        return self.out(read_BNTH.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))``."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate = linear(config.d_model, config.d_ff)
        self.up = linear(config.d_model, config.d_ff)
        self.down = linear(config.d_ff, config.d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Transforms every token on its own."""
        return self.down(functional.silu(self.gate(x_BTD)) * self.up(x_BTD))


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = SwiGLU(config)

    def forward(self, x_BTD: Tensor, cos_TH: Tensor, sin_TH: Tensor) -> Tensor:
        """Adds what attention and the MLP say to the residual stream."""
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), cos_TH, sin_TH)
        return x_BTD + self.mlp(self.mlp_norm(x_BTD))


class Transformer(nn.Module):
    """Tokens and their targets to the mean loss, in nats.

    Half precision is autocast's: parameters stay float32; the residual stream is `config.dtype`.

    Args:
        config: The sizes, and the dtype of activations.
        context: Tokens T of every sequence.
        params: Ours: a dict of float32 arrays, those of all layers stacked.
    """

    def __init__(self, config: TransformerConfig, context: int, params: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = RMSNorm(config.d_model, config.norm_eps)
        self.head = linear(config.d_model, config.vocab_size)
        angles_TH = rotary_angles(context, config.head_dim, config.rope_theta)
        self.register_buffer("cos_TH", angles_TH.cos(), persistent=False)
        self.register_buffer("sin_TH", angles_TH.sin(), persistent=False)
        self.dtype = getattr(torch, config.dtype)
        self._load(params)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """The mean cross-entropy of the next tokens."""
        x_BTD = self.embed(tokens_BT).to(self.dtype)
        for layer in self.layers:
            x_BTD = layer(x_BTD, self.cos_TH, self.sin_TH)
        logits_BTV = self.head(self.final_norm(x_BTD))
        return functional.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten())

    def _load(self, params: Any) -> None:
        _fill(self.embed.weight, params["embed"]["embedding"])
        _fill(self.final_norm.weight, params["final_norm"]["scale"])
        _fill_matrix(self.head, params["head"]["kernel"])
        stacked = params["layers"]
        for index, layer in enumerate(self.layers):
            kernels = {
                name: kernel["kernel"][index]
                for part in ("attention", "mlp")
                for name, kernel in stacked[part].items()
            }
            heads = [kernels[name] for name in ("query", "key", "value")]
            _fill_matrix(
                layer.attention.qkv, *(kernel.reshape(len(kernel), -1) for kernel in heads)
            )
            _fill_matrix(layer.attention.out, kernels["out"].reshape(-1, kernels["out"].shape[-1]))
            for name in ("gate", "up", "down"):
                _fill_matrix(getattr(layer.mlp, name), kernels[name])
            for name in ("attention_norm", "mlp_norm"):
                _fill(getattr(layer, name).weight, stacked[name]["scale"][index])


def adamw(model: nn.Module, config: AdamW) -> torch.optim.AdamW:
    """AdamW whose decay is of matrices only; clipping is left to the caller."""
    parameters = list(model.parameters())
    scales = [parameter for parameter in parameters if parameter.ndim == 1]
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    return torch.optim.AdamW(
        [{"params": matrices}, {"params": scales, "weight_decay": 0.0}],
        config.learning_rate,
        (config.b1, config.b2),
        config.eps,
        config.weight_decay,
        fused=True,
    )


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A matrix without bias."""
    return nn.Linear(inputs, outputs, bias=False)


def rotary_angles(context: int, head_dim: int, theta: float) -> Tensor:
    """The angle of either half of a head at every position, [T, H]."""
    wavelengths_R = theta ** (torch.arange(0, head_dim, 2) / head_dim)
    angles_TR = torch.arange(context)[:, None] / wavelengths_R
    return torch.cat([angles_TR, angles_TR], dim=-1)


def rotate(x_BNTH: Tensor, cos_TH: Tensor, sin_TH: Tensor) -> Tensor:
    """Turns the pairs (x_r, x_{r + H/2}), as `models.rotary.rotate`."""
    first, second = x_BNTH.chunk(2, dim=-1)
    turned_BNTH = x_BNTH * cos_TH + torch.cat([-second, first], dim=-1) * sin_TH
    return turned_BNTH.type_as(x_BNTH)


def _fill_matrix(matrix: nn.Linear, *kernels: Any) -> None:
    """Ours multiply from the right, [inputs, outputs]; theirs are transposed."""
    _fill(matrix.weight, np.concatenate(kernels, axis=1).T)


def _fill(parameter: nn.Parameter, array: Any) -> None:
    parameter.data.copy_(torch.from_numpy(np.array(array)))
