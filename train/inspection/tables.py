"""Tables for the terminal: of a plan, of an explanation, of a replayed step."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from train.host.units import count, duration, size
from train.inspection.budget import LIMIT_HOURS
from train.inspection.explain import Explanation, Parameter
from train.inspection.plan import USABLE, Plan
from train.inspection.replay import Replay, Row
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

    parameters = plan.parameters
    table.add_row("parameters", f"{parameters:,}", plan.task.name)
    table.add_row(
        "tokens",
        count(plan.budget.tokens),
        f"{config.steps:,} steps of {config.batch_size:,} x {config.context:,}; "
        f"{count(plan.budget.tokens / parameters)} a parameter",
    )
    if plan.task.flops_per_token is not None:
        table.add_row("FLOPs a token", count(plan.task.flops_per_token), plan.task.flops_formula)
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


def explanation_tables(explanation: Explanation) -> Group:
    """The parameters by layer type, then the optimizer's settings and its state."""
    settings = ", ".join(f"{name}={value}" for name, value in explanation.settings.items())
    title = f"[bold]{explanation.optimizer}[/]  {escape(settings)}"
    return Group(_strata(explanation), title, "", _state(explanation))


def _strata(explanation: Explanation) -> Table:
    """A line a layer type with its share and rate, and under it its parameters."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer type", no_wrap=True)
    table.add_column("shape", no_wrap=True)
    for heading in ("share", "decay", "rate"):
        table.add_column(heading, justify="right")
    types: dict[str, list[Parameter]] = {}
    for parameter in explanation.parameters:
        types.setdefault(parameter.layer_type, []).append(parameter)
    for layer_type, members in types.items():
        share = f"{sum(member.share for member in members):.1%}"
        table.add_row(f"[bold]{layer_type}[/]", "", share, "", f"{members[0].multiplier:.3g}")
        for member in members:
            decays = "yes" if member.decays else "no"
            table.add_row(f"  {member.path}", _shape(member), f"{member.share:.1%}", decays, "")
    return table


def _state(explanation: Explanation) -> Table:
    table = _table("state", "field", "arrays", "size")
    for part in explanation.state:
        name = part.state.rpartition(" / ")[2]
        table.add_row(escape(name), part.field, str(part.arrays), size(part.bytes))
    table.add_row("a parameter", "", "", f"{explanation.state_bytes_per_parameter:.3g} B")
    return table


def _shape(parameter: Parameter) -> str:
    """Sizes, each with the mesh axis that splits it: `12 x 768:fsdp x 2048`."""
    axes = (*parameter.sharding, *[""] * len(parameter.shape))
    sizes = zip(parameter.shape, axes, strict=False)
    return " x ".join(f"{size}:{axis}" if axis else f"{size}" for size, axis in sizes)


WORST = 8
"""Rows and layers that are shown; `--json` has them all."""


def replay_tables(replay: Replay) -> Group:
    """What the step saw and did, its worst rows with their text, and its largest gradients."""
    return Group(_verdict(replay), _norms(replay), _layers(replay), _rows(replay))


def _verdict(replay: Replay) -> str:
    origin = f"from checkpoint {replay.started_from}" if replay.started_from else "from the start"
    lines = [
        f"[bold]step {replay.step}[/], {origin}: loss {replay.loss:.6g} nats a token, "
        f"gradient norm {replay.grad_norm:.4g}, learning rate {replay.learning_rate:.4g}"
    ]
    if replay.skipped:
        lines.append("[red]skipped[/]: the gradients were not finite, and nothing changed")
    if replay.recorded_loss is None:
        lines.append("the run has recorded no loss of this step")
    elif replay.is_exact:
        lines.append("[green]exact[/]: the recorded loss to the last bit")
    else:
        apart = abs(replay.loss - replay.recorded_loss)
        lines.append(
            f"[red]not the recorded loss[/], which is {replay.recorded_loss:.6g}: {apart:.2g} apart"
        )
        lines += [f"  {escape(difference)}" for difference in replay.differences]
    return "\n".join(lines)


def _norms(replay: Replay) -> Table:
    table = _table("layer type", "gradient", "update", "parameters")
    for layer_type, norm in replay.grad_norms.items():
        others = (replay.update_norms[layer_type], replay.param_norms[layer_type])
        table.add_row(layer_type, *(f"{number:.4g}" for number in (norm, *others)))
    return table


def _layers(replay: Replay) -> Table:
    table = _table("layer", "gradient")
    for name, norm in list(replay.layers.items())[:WORST]:
        table.add_row(escape(name), f"{norm:.4g}")
    return table


def _rows(replay: Replay) -> Table:
    table = _table("row", "loss", "worst token")
    table.add_column("where")
    table.add_column("the text up to the worst token", overflow="fold")
    for row in replay.rows[:WORST]:
        losses = (f"{row.loss:.4g}", f"{row.worst_loss:.4g}")
        table.add_row(str(row.number), *losses, _where(row), escape(repr(row.excerpt)[1:-1]))
    return table


def _where(row: Row) -> str:
    first, *others = row.places
    more = f" and {len(others)} more" if others else ""
    return escape(f"{first.shard} @ {first.offset:,}{more}")


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table
