"""The commands that look ahead and train nothing: `plan`, `explain`."""

from __future__ import annotations

import dataclasses
import json
import sys

import jax

import train.inspection.explain as explaining
from train.cli.options import ExplainOptions, PlanOptions
from train.cli.terminal import console, parse
from train.explain_table import explanation_tables
from train.inspection.plan import make_plan
from train.inspection.tables import plan_table


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
