"""The commands that look ahead and train nothing: `plan`, `explain`.

The command that looks at one step of a run again: `replay`.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import jax

import train.inspection.explain as explaining
import train.inspection.replay as replays
from train.cli.options import ExplainOptions, PlanOptions, ReplayOptions
from train.cli.terminal import console, parse
from train.host.typed_json import to_json
from train.inspection.plan import make_plan
from train.inspection.tables import explanation_tables, plan_table, replay_tables


def plan(arguments: list[str]) -> None:
    """say what a run needs: memory, time, device-hours"""
    options = parse(PlanOptions, "plan", arguments)
    jax.config.update("jax_platforms", "cpu")  # It takes no GPU, should there be one.
    plan = make_plan(
        options.config, options.device, utilization=options.utilization, target=options.target
    )
    hours = options.reported_hours
    if hours is not None and not hours > 0:
        raise ValueError(f"--reported-hours {hours} is not allowed: it must be above 0.")
    console.print(plan_table(plan, hours))
    possible = hours is None or plan.implied_utilization(hours) <= 1
    sys.exit(0 if plan.fits and possible else 1)


def explain(arguments: list[str]) -> None:
    """show a model's layer types and an optimizer's chain"""
    options = parse(ExplainOptions, "explain", arguments)
    explanation = explaining.explain(options.config)
    if options.json:
        print(json.dumps(dataclasses.asdict(explanation), indent=2))
    else:
        console.print(explanation_tables(explanation))


def replay(arguments: list[str]) -> None:
    """show what was in a run's step: losses of rows, gradients"""
    options = parse(ReplayOptions, "replay", arguments)
    with console.status("preparing") as status:
        found = replays.replay(
            options.folder,
            options.step,
            on_step=lambda step: status.update(f"step {step} of {options.step}"),
        )
    if options.json:
        print(json.dumps(to_json(found) | {"is_exact": found.is_exact}, indent=2))
    else:
        console.print(replay_tables(found))
