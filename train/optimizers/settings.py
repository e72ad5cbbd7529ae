"""One frozen dataclass per optimizer: what can be set, and where the default comes from.

No dataclass is shared: `b1` of Lion and `b1` of AdamW are different quantities that happen to have
one name. `train.optimizers.build` turns each into an Optax transformation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import subcommand


@dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov and Hutter, 2019) with the betas of current language-model practice."""

    learning_rate: float = 3e-4
    """Peak rate; both papers use 3e-4."""
    b1: float = 0.9
    b2: float = 0.98
    """Where AdamW tuned at 130M sits (Wen et al., 2025, "Fantastic pretraining optimizers").
    Adam's own default is 0.999."""
    eps: float = 1e-8
    weight_decay: float = 0.1
    """Aardvark paper, section 3.1."""
    clip: float | None = 1.0
    """Global gradient norm above which the gradient is scaled down."""


@dataclass(frozen=True)
class AdEMAMix:
    """AdEMAMix (Pagliardini et al., 2024): AdamW plus a second, slow momentum."""

    learning_rate: float = 3e-4
    b1: float = 0.9
    b2: float = 0.999
    b3: float = 0.999
    """Decay of the slow momentum; the paper's 0.9999 is meant for 256,000 steps and more."""
    alpha: float = 8.0
    """Weight of the slow momentum; it and `b3` warm up over the whole run (paper, section 3)."""
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float | None = 1.0


@dataclass(frozen=True)
class Lion:
    """Lion (Chen et al., 2023): the sign of an interpolated momentum."""

    learning_rate: float = 1e-4
    """The paper advises 3 to 10 times less than AdamW's (section 5)."""
    b1: float = 0.9
    b2: float = 0.99
    weight_decay: float = 0.7
    """The paper advises 3 to 10 times AdamW's, so that rate times decay stays."""
    clip: float | None = 1.0


@dataclass(frozen=True)
class LAMB:
    """LAMB (You et al., 2020): Adam's direction, rescaled per layer to the parameters' norm."""

    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    weight_decay: float = 0.1
    """The paper uses 0.01 for BERT; 0.1 here as for every other method of the comparison."""
    clip: float | None = 1.0


@dataclass(frozen=True)
class Adafactor:
    """Adafactor (Shazeer and Stern, 2018): a factored second moment, updates clipped by norm."""

    learning_rate: float = 1e-2
    """Relative to each tensor's own scale (paper, section 8)."""
    decay_rate: float = 0.8
    clipping_threshold: float = 1.0
    """On the update's root mean square (paper, section 6); replaces clipping of the gradient."""
    momentum: float | None = None
    min_dim_size_to_factor: int = 128
    weight_decay: float = 0.1


@dataclass(frozen=True)
class Muon:
    """Muon (Jordan et al., 2024): orthogonalized momentum for hidden matrices, else AdamW."""

    strata: tuple[Literal["attention", "mlp"], ...] = ("attention", "mlp")
    """The layer types whose matrices are orthogonalized; all others get AdamW."""
    learning_rate: float = 3e-4
    """Shared with the AdamW part, as updates are scaled to AdamW's root mean square of 0.2."""
    beta: float = 0.95
    ns_steps: int = 5
    adam_b1: float = 0.9
    adam_b2: float = 0.95
    adam_nesterov: bool = True
    """Whether AdamW looks ahead as Muon does. In Optax's Muon it does, in Jordan's it does not."""
    eps: float = 1e-8
    weight_decay: float = 0.1
    consistent_rms: float | None = 0.2
    """Liu et al. (2025), section 2.2; None leaves the updates orthogonal."""
    clip: float | None = 1.0


@dataclass(frozen=True)
class StratOpt:
    """StratOpt: Adam's direction scaled per layer by its gradient norm over a running reference."""

    learning_rate: float = 3e-4
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    reference: Literal["ema", "layer_mean", "running_mean", "global_ema"] = "ema"
    reference_decay: float = 0.99
    scale_bounds: tuple[float, float] | None = (0.1, 10.0)
    bias_correction: bool = False
    layer_clip: float | None = 1.0
    """Threshold on each layer's gradient norm (StratOpt paper, section 3.2)."""
    weight_decay: float = 0.1
    stratum: Literal["layer", "block", "type"] = "layer"
    gradient_mixing: float | None = None
    """Weight of the gradient beside the momentum where they agree (section 1)."""
    momentum_adjustment: float | None = None
    """By how much `b1` follows the angle between gradient and momentum (section 6)."""
    centred: bool = False
    """Second moment of the gradient less its mean: "variance-stabilized" (section 1)."""
    nonfinite: Literal["skip", "nan_to_num"] | None = "skip"
    """The paper has no such check; here every method of a comparison has one."""
    mu_dtype: Literal["float32", "bfloat16"] | None = None
    """Dtype of the first moment; None is the parameters' own."""
    second_moment: Literal["float32", "bfloat16", "factored"] | None = None
    """How the second moment is kept: in float32, which None means too; in bfloat16, rounded
    stochastically; or factored, as its row and column means alone."""


@dataclass(frozen=True)
class Aardvark:
    """Aardvark: AdamW with a learning-rate multiplier per layer type and guarded gradients."""

    learning_rate: float = 3e-4
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    embedding: float = 1.0
    """Multipliers of equation 1."""
    attention: float = 1.5
    mlp: float = 1.2
    head: float = 1.8
    scaling: Literal["fixed", "adaptive", "normalized"] = "fixed"
    clip: float | None = 1.0
    clip_mode: Literal["global_norm", "per_tensor", "elementwise"] = "global_norm"
    nonfinite: Literal["skip", "nan_to_num"] | None = "skip"
    weight_decay: float = 0.1
    decay_rate: Literal["group", "base"] = "group"
    """Whether decay goes with the multiplied rate or with the rate itself."""
    mu_dtype: Literal["float32", "bfloat16"] | None = None
    """Dtype of the first moment; None is the parameters' own."""
    second_moment: Literal["float32", "bfloat16", "factored"] | None = None
    """How the second moment is kept: in float32, which None means too; in bfloat16, rounded
    stochastically; or factored, as its row and column means alone."""


OptimizerConfig = (
    Annotated[AdamW, subcommand("adamw")]
    | Annotated[AdEMAMix, subcommand("ademamix")]
    | Annotated[Lion, subcommand("lion")]
    | Annotated[LAMB, subcommand("lamb")]
    | Annotated[Adafactor, subcommand("adafactor")]
    | Annotated[Muon, subcommand("muon")]
    | Annotated[StratOpt, subcommand("stratopt")]
    | Annotated[Aardvark, subcommand("aardvark")]
)


def key(config: OptimizerConfig) -> str:
    """The optimizer's name on the command line, in folders and in records, such as `adamw`."""
    return type(config).__name__.lower()
