"""Compiling for an H100 on a machine that has none.

JAX's CUDA plugin compiles for a described target. It needs three wheels (`locks/h100.txt`), and
neither a driver nor the rest of CUDA. What comes out says what a program moves, launches and holds;
how long it takes, only a GPU can say.
"""

from pathlib import Path

import jax

from train.inspection.aot_devices import described_devices

TARGET = Path(__file__).parent / "h100_target.txtpb"


def devices(count: int = 1) -> list[jax.Device]:
    """That many H100s of one node, to be named in shardings and compiled for.

    Raises:
      ValueError: The CUDA plugin is not installed.
    """
    return described_devices(TARGET, count, "(`make bench-h100` sets it up).")
