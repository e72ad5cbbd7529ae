"""What a run costs before it is run: tokens, floating-point operations and device-hours."""

from __future__ import annotations

from typing import NamedTuple

from train.step.accelerators import ACCELERATORS
from train.tasks.task import Task

LIMIT_HOURS = 300.0
"""Device-hours above which a run must be accepted explicitly."""


class Budget(NamedTuple):
    """The least that a run costs."""

    tokens: int
    flops: float
    a100_hours: float
    """At 100 % utilization, which no program reaches."""


def budget(task: Task, steps: int) -> Budget:
    """Tokens, FLOPs and A100-hours of so many steps; no FLOPs where the task counts none.

    Example:
      >>> from train.config.named import paper_literal
      >>> from train.tasks import task_of
      >>> cost = budget(task_of(paper_literal()), paper_literal().steps)
      >>> f"{cost.tokens / 1e9:.0f} billion tokens"
      '419 billion tokens'
    """
    tokens = steps * task.tokens_per_step
    flops = tokens * (task.flops_per_token or 0.0)
    return Budget(tokens, flops, flops / ACCELERATORS["a100"].peak_flops / 3600)


def refuse_unless_accepted(task: Task, steps: int, accepted: bool) -> None:
    """Stops a run of hundreds of device-hours that nobody asked for.

    Raises:
      ValueError: With the estimate and the way out.
    """
    cost = budget(task, steps)
    if cost.a100_hours > LIMIT_HOURS and not accepted:
        raise ValueError(
            f"this run is {cost.tokens / 1e9:,.1f} billion tokens, {cost.flops:.2e} FLOPs: "
            f"at least {cost.a100_hours:,.0f} A100-hours at 100 % utilization. Add --accept-cost "
            "to run it all the same, or lower --steps."
        )
