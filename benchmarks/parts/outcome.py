"""What all benchmarks share: the device, ratios of times, verdicts, exit status, and a record.

A benchmark leaves a line of JSON with its numbers and where they come from.

Machines drift, so a time is compared only with its rival's time in the same round, and the result
is the median over the rounds. How much a ratio means is seen from one that must be 1: the rival's
own program once more, in a process of its own (A/A).
"""

import datetime
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from train.host import provenance
from train.records.kinds import Ratio, ratio

Device = Literal["cpu", "gpu"]

MET, MISSED, UNTRUSTED = "met", "missed", "not trustworthy"
STATUS = {MET: 0, MISSED: 1, UNTRUSTED: 2}


def run_on(device: Device) -> None:
    """Lets JAX see that kind of device alone; before anything is computed."""
    jax.config.update("jax_platforms", {"cpu": "cpu", "gpu": "cuda"}[device])


def where() -> str:
    """The machine and the versions that the numbers belong to."""
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions().items())
    return f"{provenance.device()}, {os.cpu_count()} cores; {versions}"


def judge(holds: bool, trusted: bool = True) -> str:
    """A target's verdict: it counts only where the measurement can be trusted."""
    return (MET if holds else MISSED) if trusted else UNTRUSTED


def exit_status(verdicts: Iterable[str]) -> int:
    """0 if all targets are met, 1 if one is missed, 2 if one could not be judged."""
    return max((STATUS[verdict] for verdict in verdicts), default=0)


def append(path: Path, benchmark: str, device: str, rows: Sequence[dict[str, Any]]) -> None:
    """Adds one line to a file, and makes the file and its folder where they are missing."""
    record = {
        "benchmark": benchmark,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device,
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "rows": list(rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


__all__ = ["TRUSTED", "Ratio", "ratio", "trusted"]

TRUSTED = (0.97, 1.03)
"""Where the median of the A/A control must lie."""


def trusted(control: Ratio) -> bool:
    """Whether a program is as fast as itself."""
    return TRUSTED[0] <= control.median <= TRUSTED[1]
