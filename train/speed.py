"""How fast a run was: tokens a second, the share of the devices' peak, memory."""

from __future__ import annotations

from typing import NamedTuple

import jax

import models
from train.accelerators import peak_flops
from train.config import Experiment
from train.records import FinalRecord


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


def speed_of(config: Experiment, final: FinalRecord, device_kind: str | None = None) -> Speed:
    """The speed of a finished run.

    Args:
      config: The run.
      final: Its last record.
      device_kind: What it ran on, as JAX names it; by default the devices in use here.
    """
    peak = peak_flops(device_kind or jax.devices()[0].device_kind)
    flops = final.tokens * models.flops_per_token(config.model, config.context)
    mfu = None if peak is None else flops / (final.device_seconds * peak)
    return Speed(final.tokens / final.seconds, peak, mfu)
