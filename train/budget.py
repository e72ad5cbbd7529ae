"""What a run costs before it is run: tokens, floating-point operations and device-hours."""

from __future__ import annotations

from typing import NamedTuple

import models
from train.config.run import RunConfig

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
