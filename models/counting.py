"""How many parameters a model has and how much arithmetic a token costs, by formula."""

from typing import NamedTuple

from models.config import TransformerConfig

FLOPS_FORMULA = "6 (N - untied input embedding) + 6 L d T"
"""What `flops_per_token` computes, to be printed beside every number that depends on it."""


class ParameterCount(NamedTuple):
    """Numbers of parameters by the kind of layer that they sit in."""

    embedding: int
    attention: int
    mlp: int
    norm: int
    head: int

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self)

    @property
    def layer_matrices(self) -> int:
        """The matrices of attention and MLP, without embedding, head and norms."""
        return self.attention + self.mlp


def parameter_count(config: TransformerConfig) -> ParameterCount:
    """Counts a model's parameters without building it.

    Args:
        config: The model. A tied head counts once, as the embedding.

    Examples:
        >>> from models import PRESETS
        >>> parameter_count(PRESETS["paper_deep"]).layer_matrices
        134217728
        >>> parameter_count(PRESETS["paper_wide"]).total
        134105856
    """
    L, D, F, V = config.layers, config.d_model, config.d_ff, config.vocab_size
    kv_width = config.key_value_heads * config.head_dim
    return ParameterCount(
        embedding=V * D,
        attention=L * (2 * D * D + 2 * D * kv_width),
        mlp=L * 3 * D * F,
        norm=(2 * L + 1) * D,
        head=0 if config.tied_head else D * V,
    )


def flops_per_token(config: TransformerConfig, context: int) -> float:
    """Floating-point operations to train on one token, forward and backward.

    .. math:: 6 (N - N_{embedding}) + 6 L D T

    A parameter costs one multiplication and one addition forward and twice that backward; an
    untied embedding is only looked up and costs nothing. Query-key and weight-value products cost
    12 L D per visible token, and causality shows each token T / 2 others on average. Nothing is
    added for rematerialization, so utilization computed from this number is not flattered by it.
    This is appendix B of PaLM (Chowdhery et al. 2022, arXiv:2204.02311) with causality counted.

    Args:
        config: The model.
        context: Tokens T in a training sequence.

    Returns:
        FLOPs per token.

    Examples:
        >>> from models import PRESETS
        >>> flops_per_token(PRESETS["paper_deep"], 4096) / 1e9
        1.306...
    """
    count = parameter_count(config)
    multiplied = count.total if config.tied_head else count.total - count.embedding
    return 6.0 * multiplied + 6.0 * config.layers * config.d_model * context
