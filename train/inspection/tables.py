"""A plan as a table for people."""

from __future__ import annotations

from rich.table import Table

import models
from train.budget import LIMIT_HOURS
from train.host.units import count, duration, size
from train.inspection.plan import USABLE, Plan
from train.step.accelerators import ACCELERATORS
from train.step.sharding import AXES


def plan_table(plan: Plan, reported_hours: float | None = None) -> Table:
    """Every number of a plan with the terms on which it holds, and the verdict at the end.

    Args:
      plan: The plan.
      reported_hours: Device-hours that somebody reports for it, to be told whether they can be.
    """
    config, device = plan.config, ACCELERATORS[plan.device]
    mesh = " x ".join(f"{axis} {n}" for axis, n in zip(AXES, plan.shape, strict=True))
    table = Table(title=f"{plan.devices} x {plan.device}: {mesh}", title_justify="left")
    table.add_column("the run", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("")

    parameters = models.parameter_count(config.model).total
    flops = models.flops_per_token(config.model, config.context)
    table.add_row("parameters", f"{parameters:,}", f"{config.model.layers} layers")
    table.add_row(
        "tokens",
        count(plan.budget.tokens),
        f"{config.steps:,} steps of {config.batch_size:,} x {config.context:,}; "
        f"{count(plan.budget.tokens / parameters)} a parameter",
    )
    table.add_row("FLOPs a token", count(flops), models.FLOPS_FORMULA)
    table.add_row("FLOPs", f"{plan.budget.flops:.3g}", "rematerialization not counted")
    at = f"at {plan.utilization:.0%} of {device.peak_flops / 1e12:,.0f} TFLOP/s a device, bfloat16"
    table.add_row("tokens/s", count(plan.tokens_per_second), at)
    table.add_row("time", duration(3600 * plan.hours), "without compiling, evaluating and saving")
    hours = plan.devices * plan.hours
    accept = "; needs --accept-cost" if plan.budget.a100_hours > LIMIT_HOURS else ""
    table.add_row("device-hours", f"{hours:,.1f}", f"all devices{accept}")
    if reported_hours is not None:
        table.add_row("reported", f"{reported_hours:,.1f}", _judge(plan, reported_hours))
    table.add_section()
    _add_memory(table, plan)
    return table


def _judge(plan: Plan, reported_hours: float) -> str:
    share = plan.implied_utilization(reported_hours)
    verdict = f"{share:.3g} of the peak"
    if share <= 1:
        return f"[green]possible[/]: {verdict}"
    if plan.devices == 1:
        return f"[red]impossible[/]: {verdict}"
    each = share / plan.devices
    also = "impossible" if each > 1 else "possible"
    return f"[red]impossible[/]: {verdict}; {also} as hours of every device: {each:.3g}"


def _add_memory(table: Table, plan: Plan) -> None:
    config, memory = plan.config, plan.memory
    rows = config.batch_size // (plan.shape[0] * plan.shape[1]) // config.accumulate
    part = f"{rows:,} sequences at a time, remat {config.model.remat!r}"
    origin = f"compiled for {plan.device}" if memory.compiled else "an estimate, not compiled"
    twice = "; the sum and the new ones" if config.accumulate > 1 else ""
    room = USABLE * ACCELERATORS[plan.device].memory
    table.add_row("[bold]per device[/]")
    table.add_row("parameters", size(memory.parameters), "exact, float32")
    table.add_row("optimizer state", size(memory.optimizer_state), "exact")
    table.add_row("gradients", size(memory.gradients), "exact, float32" + twice)
    table.add_row("activations", size(memory.activations), f"{origin}; {part}")
    verdict = "[green]fits[/]" if plan.fits else f"[red]does not fit[/]: try {plan.way_out()}"
    table.add_row("in all", size(memory.total), f"of {size(room)} usable: {verdict}")
