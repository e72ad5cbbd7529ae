"""Compiling for an H100 on a machine that has none.

JAX's CUDA plugin compiles for a described target. It needs three wheels (`locks/h100.txt`), and
neither a driver nor the rest of CUDA. What comes out says what a program moves, launches and holds;
how long it takes, only a GPU can say.
"""

import os
from pathlib import Path

import jax
from jax.experimental import topologies

TARGET = Path(__file__).parent / "h100_target.txtpb"


def devices(count: int = 1) -> list[jax.Device]:
    """That many H100s of one node, to be named in shardings and compiled for.

    Raises:
      RuntimeError: The CUDA plugin is not installed.
    """
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    try:
        node = topologies.get_topology_desc(
            platform="cuda",
            topology_name="h100",
            topology=f"1x1x{count}",
            target_config=TARGET.read_text(),
        )
    except (NotImplementedError, RuntimeError) as error:
        raise RuntimeError(
            "Compiling for an H100 needs JAX's CUDA plugin: `make bench-h100` sets it up."
        ) from error
    return list(node.devices)
