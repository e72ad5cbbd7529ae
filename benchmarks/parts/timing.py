"""Times one optimizer against its rival, in turn and with a control."""

import dataclasses
import math
from typing import Literal

import numpy as np

from benchmarks.parts import trees
from benchmarks.parts.contenders import CONTENDERS
from benchmarks.parts.outcome import Ratio, ratio
from benchmarks.parts.stepping import steppers, take_turns
from benchmarks.parts.update import Copying, Updating

Clock = Literal["wall", "cpu"]

COPIED = 8
"""Bytes a parameter that the copy reads and writes."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """One optimizer on one tree."""

    tree: str
    size: trees.Size
    optimizer: str
    rival: str
    device: str
    wall: Ratio
    """To the rival's time."""
    cpu: Ratio
    """The same of the processes' own time, which what else runs on the machine disturbs less."""
    control: Ratio
    """The rival's second process to its first, by the clock that decides."""
    milliseconds: float
    """Median of a step."""
    roofline: float
    """How long a copy of as many bytes as the step cannot avoid takes, over how long it takes."""


def measure(
    name: str, tree: str, size: trees.Size, *, rounds: int, seconds: float, clock: Clock
) -> Timing:
    """Runs the rival, the rival again, the optimizer and the copy in turn.

    Args:
      name: One of `CONTENDERS`.
      tree: One of `trees.TREES`.
      size: Of the tree.
      rounds: How often each runs.
      seconds: How long the rival steps within a round, at least; the others take as many steps.
      clock: By which times the control is judged.
    """
    contender = CONTENDERS[name]
    rival = Updating(contender.rival, tree, size)
    programs = [rival, rival, Updating(name, tree, size), Copying(tree, size)]
    with steppers(programs) as running:
        steps = max(1, math.ceil(seconds / running[0].run(1).wall))
        wall, cpu = take_turns(running, steps, rounds)
    chosen = {"wall": wall, "cpu": cpu}[clock]
    return Timing(
        tree=tree,
        size=size,
        optimizer=name,
        rival=contender.rival,
        device=running[0].said,
        wall=ratio(wall[2], wall[0]),
        cpu=ratio(cpu[2], cpu[0]),
        control=ratio(chosen[1], chosen[0]),
        milliseconds=float(np.median(wall[2])) * 1e3 / steps,
        roofline=ratio(wall[3], wall[2]).median * contender.floor / COPIED,
    )
