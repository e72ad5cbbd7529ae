"""What accelerators can do, by their makers' data sheets.

What a run costs before it is run: tokens, floating-point operations and device-hours.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import models
from train.config.run import RunConfig

AcceleratorName = Literal[
    "a100-40", "a100", "h100", "h200", "b200", "tpu-v4", "tpu-v5e", "tpu-v5p", "tpu-v6e"
]


class Accelerator(NamedTuple):
    """One device."""

    kind: str
    """What JAX calls its `device_kind`."""
    peak_flops: float
    """Dense bfloat16 operations a second."""
    memory: float
    """Bytes."""


# NVIDIA's data sheets print figures with sparsity beside these, or only those: twice as many.
ACCELERATORS: Mapping[AcceleratorName, Accelerator] = MappingProxyType(
    {
        "a100-40": Accelerator("NVIDIA A100-SXM4-40GB", 312e12, 40e9),
        "a100": Accelerator("NVIDIA A100-SXM4-80GB", 312e12, 80e9),
        "h100": Accelerator("NVIDIA H100 80GB HBM3", 989e12, 80e9),
        "h200": Accelerator("NVIDIA H200", 989e12, 141e9),
        "b200": Accelerator("NVIDIA B200", 2250e12, 180e9),
        "tpu-v4": Accelerator("TPU v4", 275e12, 32e9),
        "tpu-v5e": Accelerator("TPU v5 lite", 197e12, 16e9),
        "tpu-v5p": Accelerator("TPU v5", 459e12, 95e9),
        "tpu-v6e": Accelerator("TPU v6 lite", 918e12, 32e9),
    }
)


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 operations a second of a device, or None where none are known.

    Args:
      device_kind: As in `jax.Device.device_kind`.

    Example:
      >>> peak_flops("NVIDIA H100 80GB HBM3"), peak_flops("cpu")
      (989000000000000.0, None)
    """
    known = {device.kind: device.peak_flops for device in ACCELERATORS.values()}
    return known.get(device_kind)


A100_FLOPS = 312e12
"""Dense bfloat16 operations a second of one A100 at 100 % utilization (NVIDIA's data sheet)."""

LIMIT_HOURS = 300.0
"""Device-hours above which a run must be accepted explicitly."""


class Budget(NamedTuple):
    """The least that a run costs."""

    tokens: int
    flops: float
    a100_hours: float
    """At 100 % utilization, which no program reaches."""


def budget(config: RunConfig) -> Budget:
    """Tokens, exact causal FLOPs and A100-hours of a run.

    Example:
      >>> from train.config.named import paper_literal
      >>> cost = budget(paper_literal())
      >>> f"{cost.tokens / 1e9:.0f} billion tokens"
      '419 billion tokens'
    """
    tokens = config.steps * config.tokens_per_step
    flops = tokens * models.flops_per_token(config.model, config.context)
    return Budget(tokens, flops, flops / A100_FLOPS / 3600)


def refuse_unless_accepted(config: RunConfig, accepted: bool) -> None:
    """Stops a run of hundreds of device-hours that nobody asked for.

    Raises:
      ValueError: With the estimate and the way out.
    """
    cost = budget(config)
    if cost.a100_hours > LIMIT_HOURS and not accepted:
        raise ValueError(
            f"this run is {cost.tokens / 1e9:,.1f} billion tokens, {cost.flops:.2e} FLOPs: "
            f"at least {cost.a100_hours:,.0f} A100-hours at 100 % utilization. Add --accept-cost "
            "to run it all the same, or lower --steps."
        )
