"""How a benchmark starts and ends: on which device, with which verdicts and exit status."""

import os
from collections.abc import Iterable
from typing import Literal

import jax

from train.host import provenance

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
