"""The commands that look and train nothing new: `plan`, `explain`, `replay`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import jax
import tyro

from train.cli.terminal import NamedRun, console
from train.host.typed_json import to_json
from train.inspection.explain import explain
from train.inspection.plan import make_plan
from train.inspection.replay import replay
from train.inspection.tables import explanation_tables, plan_table, replay_tables
from train.step.accelerators import AcceleratorName


def plan_command(
    config: NamedRun,
    device: AcceleratorName = "h100",
    utilization: float = 0.3,
    reported_hours: float | None = None,
    target: Path | None = None,
) -> None:
    """Say what a run needs: memory, time, device-hours.

    Args:
      config: Named configurations; every setting of one can be overridden.
      device: What it is to run on; --mesh says how many.
      utilization: The part of the devices' peak to count on.
      reported_hours: Device-hours that were reported for such a run: tells whether they are
        possible.
      target: XLA's description of the device, such as benchmarks/h100_target.txtpb: compile for it
        instead of estimating the activations. Needs JAX's CUDA plugin, and no GPU.
    """
    jax.config.update("jax_platforms", "cpu")  # It takes no GPU, should there be one.
    plan = make_plan(config, device, utilization=utilization, target=target)
    if reported_hours is not None and not reported_hours > 0:
        raise ValueError(f"--reported-hours {reported_hours} is not allowed: it must be above 0.")
    console.print(plan_table(plan, reported_hours))
    possible = reported_hours is None or plan.implied_utilization(reported_hours) <= 1
    sys.exit(0 if plan.fits and possible else 1)


def explain_command(config: NamedRun, json: bool = False) -> None:
    """Show what an optimizer will do to each part of a model.

    Args:
      config: Named configurations; every setting of one can be overridden.
      json: For programs instead of people.
    """
    explanation = explain(config)
    if json:
        _print_json(dataclasses.asdict(explanation))
    else:
        console.print(explanation_tables(explanation))


def replay_command(
    folder: Annotated[Path, tyro.conf.Positional], step: int, json: bool = False
) -> None:
    """Show what was in a run's step: losses of rows, gradients.

    Args:
      folder: The run's, finished or not.
      step: Which step, the first being 1.
      json: For programs instead of people.
    """
    with console.status("preparing") as status:
        replayed = replay(
            folder, step, on_step=lambda done: status.update(f"step {done} of {step}")
        )
    if json:
        _print_json(to_json(replayed) | {"is_exact": replayed.is_exact})
    else:
        console.print(replay_tables(replayed))


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))
