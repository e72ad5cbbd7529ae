"""When a device's memory is not enough: what the plan says about it, and which knob helps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from train.config.run import RunConfig
from train.host.units import plural, size
from train.inspection.plan import USABLE, make_plan
from train.step.accelerators import ACCELERATORS, AcceleratorName

STAND_IN: AcceleratorName = "h100"
"""Whose estimate is taken for a device that no data sheet here speaks of."""


class OutOfMemoryError(ValueError):
    """A run that does not fit into its devices; a smaller one would."""


@contextmanager
def memory_explained(config: RunConfig) -> Iterator[None]:
    """Turns XLA's exhausted memory, met while compiling or at a step, into a sentence.

    Args:
      config: What is run inside.

    Raises:
      OutOfMemoryError: If memory was exhausted; all other errors pass.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "Out of memory" not in str(error):
            raise
        sentence = explain_out_of_memory(config, error, jax.local_devices()[0], jax.device_count())
        raise OutOfMemoryError(sentence) from error


def explain_out_of_memory(
    config: RunConfig, error: Exception, device: jax.Device, count: int
) -> str:
    """What was asked for, what `python -m train plan` predicts, what there is, and the way out.

    Args:
      config: The run.
      error: XLA's.
      device: One of those that it ran on, all alike.
      count: How many there are, over all processes.

    Returns:
      One sentence.
    """
    data = count // (config.mesh.fsdp * config.mesh.tensor)
    config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, data=data))
    names = {accelerator.kind: name for name, accelerator in ACCELERATORS.items()}
    name = names.get(device.device_kind)
    plan = make_plan(config, name or STAND_IN)
    reason = str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ").rstrip(".")
    return (
        f"memory ran out ({reason}): `python -m train plan` predicts {size(plan.memory.total)} on "
        f"each of {plural(count, 'device')}{_offer(device, name)}; try {plan.way_out()}."
    )


def _offer(device: jax.Device, name: AcceleratorName | None) -> str:
    """What a device has for JAX, as far as that is known."""
    usable = USABLE * ACCELERATORS[name].memory if name else None
    limit = (device.memory_stats() or {}).get("bytes_limit", usable)
    if limit is None:
        return ""
    offer = f", and a device ({device.device_kind}) has {size(limit)} for JAX"
    if usable and limit < 0.95 * usable:
        offer += f", or {size(usable)} with XLA_PYTHON_CLIENT_MEM_FRACTION={USABLE}"
    return offer
