"""Where a number comes from: commit, device and versions."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import jax

PACKAGES = ("jax", "jaxlib", "optax", "flax", "orbax-checkpoint", "grain", "numpy")


def commit() -> str:
    """Hash of the source's commit, with `+` if files differ from it; `unknown` without git."""
    here = Path(__file__).parent
    try:
        found = _git(here, "rev-parse", "--short=12", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found + ("+" if changed else "")


def device() -> str:
    """The kind of the devices in use, as their maker names it."""
    kind = jax.devices()[0].device_kind
    return f"{_processor()} ({kind})" if kind == "cpu" else kind


def device_count() -> int:
    """Devices in use, over all processes."""
    return jax.device_count()


def versions() -> dict[str, str]:
    """Version of Python and of each package that a result depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
