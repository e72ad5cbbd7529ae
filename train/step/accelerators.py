"""What accelerators can do, by their makers' data sheets."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

AcceleratorName = Literal[
    "a100-40", "a100", "h100", "h200", "b200", "tpu-v4", "tpu-v5e", "tpu-v5p", "tpu-v6e"
]


class Accelerator(NamedTuple):
    """One device."""

    kind: str
    """What JAX calls its `device_kind`."""
    peak_flops: float
    """Dense bfloat16 operations a second."""
    memory: float
    """Bytes."""


# NVIDIA's data sheets print figures with sparsity beside these, or only those: twice as many.
ACCELERATORS: Mapping[AcceleratorName, Accelerator] = MappingProxyType(
    {
        "a100-40": Accelerator("NVIDIA A100-SXM4-40GB", 312e12, 40e9),
        "a100": Accelerator("NVIDIA A100-SXM4-80GB", 312e12, 80e9),
        "h100": Accelerator("NVIDIA H100 80GB HBM3", 989e12, 80e9),
        "h200": Accelerator("NVIDIA H200", 989e12, 141e9),
        "b200": Accelerator("NVIDIA B200", 2250e12, 180e9),
        "tpu-v4": Accelerator("TPU v4", 275e12, 32e9),
        "tpu-v5e": Accelerator("TPU v5 lite", 197e12, 16e9),
        "tpu-v5p": Accelerator("TPU v5", 459e12, 95e9),
        "tpu-v6e": Accelerator("TPU v6 lite", 918e12, 32e9),
    }
)


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 operations a second of a device, or None where none are known.

    Args:
      device_kind: As in `jax.Device.device_kind`.

    Example:
      >>> peak_flops("NVIDIA H100 80GB HBM3"), peak_flops("cpu")
      (989000000000000.0, None)
    """
    known = {device.kind: device.peak_flops for device in ACCELERATORS.values()}
    return known.get(device_kind)
