"""How fast a run was: tokens a second, and the share of the devices' peak."""

from __future__ import annotations

from typing import NamedTuple

import jax

import models
from train.config.run import Experiment
from train.run.training_clock import Spent
from train.step.accelerators import peak_flops


class Speed(NamedTuple):
    """Of the training steps alone; evaluation, checkpoints and compilation are not counted."""

    tokens_per_second: float
    """Of all devices together."""
    peak_flops: float | None
    """Of one device, bfloat16; None where it is not known."""
    mfu: float | None
    """Model FLOPs utilization: exact causal FLOPs over what the devices could do at their peak."""

    def __str__(self) -> str:
        rate = f"{self.tokens_per_second:,.0f} tokens/s"
        if self.mfu is None or self.peak_flops is None:
            return f"{rate}, MFU unknown (no peak is known for this device)"
        peak = f"{self.peak_flops / 1e12:,.0f} TFLOP/s a device"
        return f"{rate}, MFU {self.mfu:.1%} of {peak}, {models.FLOPS_FORMULA} FLOPs a token"


def speed_of(
    config: Experiment, tokens: int, spent: Spent, device_kind: str | None = None
) -> Speed:
    """The speed of a run.

    Args:
      config: The run.
      tokens: How many it trained on.
      spent: How long that took.
      device_kind: What they are, as JAX names it; by default those in use here.

    Example:
      >>> from train.config.named import paper_consistent
      >>> print(speed_of(paper_consistent(), 4_000_000, Spent(1.0, 8.0), "NVIDIA H100 80GB HBM3"))
      4,000,000 tokens/s, MFU 44.7% of 989 TFLOP/s a device, 6 (N - untied ...) + 6 L d T FLOPs ...
    """
    peak = peak_flops(device_kind or jax.devices()[0].device_kind)
    flops = tokens * models.flops_per_token(config.model, config.context)
    mfu = None if peak is None else flops / (spent.device_seconds * peak)
    return Speed(tokens / spent.seconds, peak, mfu)
