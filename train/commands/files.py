"""The commands that make files for others: `prepare`."""

from __future__ import annotations

import train.data as data
from train.commands.terminal import console, parse
from train.display import PrepareDisplay
from train.options import PrepareOptions


def prepare(arguments: list[str]) -> None:
    """tokenize a source once, into memory-mapped shards"""
    options = parse(PrepareOptions, "prepare", arguments)
    with PrepareDisplay(console) as display:
        manifest = data.prepare(options.data, workers=options.workers, progress=display.progress)
    console.print(manifest.summary(), markup=False, highlight=False)
