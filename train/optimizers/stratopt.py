"""StratOpt: per-layer scaling by gradient norms, layer-wise clipping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import optax

import optax_strat
from train.optimizers.base import OptimizerConfig
from train.optimizers.dimensions import AVERAGING, DECAY, LogUniform


@dataclass(frozen=True)
class StratOpt(OptimizerConfig):
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

    # Best on the coarse grid: 1e-3; alpha raises the rate up to tenfold where gradients are large.
    search: ClassVar = (LogUniform("learning_rate", 3e-5, 3e-2), DECAY, AVERAGING)
    nano_settings: ClassVar = {"learning_rate": 0.001619, "b2": 0.93597, "weight_decay": 0.4811}
    has_guard: ClassVar = True

    @property
    def infers_sharding(self) -> bool:
        """Where the second moment is factored."""
        return self.second_moment == "factored"

    def build(self, learning_rate: optax.Schedule, steps: int) -> optax.GradientTransformation:
        """`optax_strat.stratopt`."""
        return optax_strat.stratopt(
            learning_rate,
            self.b1,
            self.b2,
            self.eps,
            reference=self.reference,
            scale_bounds=self.scale_bounds,
            bias_correction=self.bias_correction,
            layer_clip=self.layer_clip,
            weight_decay=self.weight_decay,
            nonfinite=self.nonfinite,
            mu_dtype=self.mu_dtype,
            second_moment=self.second_moment,
            readings=optax_strat.StratoptReadings(
                reference_decay=self.reference_decay,
                gradient_mixing=self.gradient_mixing,
                momentum_adjustment=self.momentum_adjustment,
                centred=self.centred,
                stratum=self.stratum,
            ),
        )
