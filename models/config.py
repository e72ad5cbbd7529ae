"""The shape of a model and how it is computed: one frozen, hashable, self-checking dataclass."""

import dataclasses
from typing import Literal, get_args

ComputeDtype = Literal["bfloat16", "float16", "float32"]
AttentionKind = Literal["auto", "head_major", "xla", "cudnn"]
RematMode = Literal["none", "dots", "full"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A decoder-only transformer: its sizes, and the choices that change speed but not results.

    Args:
        vocab_size: Number of token ids V; ids run from 0 to V - 1.
        context: Longest sequence T that the model accepts, in tokens.
        layers: Number of blocks L.
        d_model: Width D of the residual stream.
        heads: Number of query heads N; the head dimension H is D / N.
        kv_heads: Number of key and value heads K, a divisor of N. None means N (multi-head
            attention); fewer is grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245).
        d_ff: Width F of the SwiGLU hidden layer.
        tied_head: Whether the head is the transposed embedding instead of a kernel of its own.
        rope_theta: Base of the rotary wavelengths (Su et al. 2021, arXiv:2104.09864).
        norm_eps: Added to the mean square inside RMSNorm.
        dtype: The dtype of activations and matrix products. Parameters are always float32; norms,
            softmax and logits are computed in float32.
        attention: How attention is computed. 'head_major' is fastest on a CPU; 'xla' and 'cudnn'
            are the implementations of `jax.nn.dot_product_attention`. 'auto' chooses by platform
            and dtype, see `models.attention.resolve_kind`.
        remat: What the backward pass computes again instead of keeping: 'none' keeps everything,
            'dots' keeps the results of the weight matrices, 'full' keeps only each block's input.
        scan_unroll: How many layers one turn of the loop over layers holds. None unrolls all,
            which runs fastest; 1 rolls the loop, which compiles fastest.

    Raises:
        ValueError: If sizes do not fit together or an option does not exist.

    Examples:
        >>> config = TransformerConfig(vocab_size=256, context=128, layers=2, d_model=64, heads=4,
        ...                            d_ff=176)
        >>> config.head_dim, config.key_value_heads
        (16, 4)
        >>> dataclasses.replace(config, heads=5)
        Traceback (most recent call last):
        ValueError: d_model=64 is not divisible by heads=5; choose heads among 1, 2, 4, 8, ...
    """

    vocab_size: int
    context: int
    layers: int
    d_model: int
    heads: int
    kv_heads: int | None = None
    d_ff: int
    tied_head: bool = False
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    dtype: ComputeDtype = "bfloat16"
    attention: AttentionKind = "auto"
    remat: RematMode = "none"
    scan_unroll: int | None = None

    def __post_init__(self) -> None:
        self._check_sizes()
        self._check_options()

    @property
    def head_dim(self) -> int:
        """Dimension H of one head."""
        return self.d_model // self.heads

    @property
    def key_value_heads(self) -> int:
        """Number K of key and value heads, with the default filled in."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def unroll(self) -> int:
        """Layers per turn of the loop over layers, with the default filled in."""
        return self.layers if self.scan_unroll is None else self.scan_unroll

    def _check_sizes(self) -> None:
        for name in ("vocab_size", "context", "layers", "d_model", "heads", "d_ff"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        for name in ("rope_theta", "norm_eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be greater than 0.")
        if self.d_model % self.heads:
            raise ValueError(
                f"d_model={self.d_model} is not divisible by heads={self.heads}; "
                f"choose heads among {_divisors(self.d_model)}."
            )
        if self.head_dim % 2:
            raise ValueError(
                f"d_model={self.d_model} with heads={self.heads} gives an odd head dimension "
                f"{self.head_dim}, but rotary embeddings turn pairs; make d_model / heads even."
            )
        if self.key_value_heads < 1 or self.heads % self.key_value_heads:
            raise ValueError(
                f"heads={self.heads} is not divisible by kv_heads={self.kv_heads}; "
                f"choose kv_heads among {_divisors(self.heads)}."
            )
        if not 1 <= self.unroll <= self.layers:
            raise ValueError(
                f"scan_unroll={self.scan_unroll} must lie between 1 and layers={self.layers}, "
                "or be None to unroll all layers."
            )

    def _check_options(self) -> None:
        options = {"dtype": ComputeDtype, "attention": AttentionKind, "remat": RematMode}
        for name, allowed in options.items():
            if getattr(self, name) not in get_args(allowed):
                choices = ", ".join(map(repr, get_args(allowed)))
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {choices}.")
        if self.attention == "cudnn" and self.dtype == "float32":
            raise ValueError(
                "attention='cudnn' computes in bfloat16 or float16 only, but dtype='float32'; "
                "choose another dtype or attention='auto'."
            )


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)
