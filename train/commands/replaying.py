"""The command that looks at one step of a run again: `replay`."""

from __future__ import annotations

import json

import train.inspection.replay as replays
from train.cli.options import ReplayOptions
from train.cli.terminal import console, parse
from train.host.typed_json import to_json
from train.replay_table import replay_tables


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
