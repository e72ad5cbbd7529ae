"""What a run needs, before anybody rents a device: `python -m train plan`.

Parameters, optimizer state and gradients are exact: they are laid out on the mesh abstractly, as a
run does it. Activations are estimated, or counted by the compiler, which compiles for a device that
is described to it and not there. Times follow from the FLOPs, at a peak and a utilization that are
stated.
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from jax.experimental import topologies

from models.attention import resolve_kind
from train.config.run import RunConfig
from train.inspection.budget import Budget, budget
from train.step.accelerators import ACCELERATORS, AcceleratorName
from train.step.accumulation import check_micro_batches
from train.step.optimizer import build_optimizer
from train.step.program import compile_ahead
from train.step.sharding import abstract_mesh, batch_sharding, make_mesh, mesh_shape
from train.step.state import abstract_state
from train.tasks import task_of
from train.tasks.task import Task

INSTALL = "(`JAX=cuda12 make test` installs it): leave the target out for an estimate."


USABLE = 0.9
"""The part of its memory that a GPU's program gets: `XLA_PYTHON_CLIENT_MEM_FRACTION=0.9`."""


class Memory(NamedTuple):
    """Bytes on each device."""

    parameters: int
    optimizer_state: int
    gradients: int
    """With accumulation twice: the sum, and those of one micro-batch."""
    activations: float
    """With logits and all else that lives within a step."""
    compiled: bool
    """Whether `activations` is the compiler's count and no estimate."""

    @property
    def total(self) -> float:
        """All together."""
        return self.parameters + self.optimizer_state + self.gradients + self.activations


@dataclass(frozen=True)
class Plan:
    """A run on devices that nobody needs to have yet."""

    config: RunConfig
    task: Task
    device: AcceleratorName
    utilization: float
    """The part of the peak that the run is assumed to reach."""
    parameters: int
    """How many the model has."""
    memory: Memory

    @property
    def shape(self) -> tuple[int, int, int]:
        """Devices along the axes `data`, `fsdp` and `tensor`."""
        return mesh_shape(self.config.mesh)

    @property
    def devices(self) -> int:
        """How many devices the mesh has."""
        return math.prod(self.shape)

    @property
    def budget(self) -> Budget:
        """Tokens and FLOPs of the whole run."""
        return budget(self.task, self.config.steps)

    @property
    def tokens_per_second(self) -> float:
        """Of all devices together."""
        flops = self.devices * ACCELERATORS[self.device].peak_flops * self.utilization
        return flops / (self.task.flops_per_token or math.nan)

    @property
    def hours(self) -> float:
        """From start to end, without compilation, evaluation and checkpoints."""
        return self.budget.tokens / self.tokens_per_second / 3600

    def implied_utilization(self, device_hours: float) -> float:
        """The part of the peak that a run of so many device-hours must have reached.

        Above 1 no such run was possible: steps, batch, context, model or hours are not what was
        said. Tuned programs reach 0.3 to 0.5.

        Example:
          >>> from train.config.named import paper_literal
          >>> plan = make_plan(paper_literal(), "a100")
          >>> round(plan.implied_utilization(19.8), 1)  # The Aardvark paper's Table 1, AdamW.
          16.7
        """
        peak = ACCELERATORS[self.device].peak_flops
        return self.budget.flops / (device_hours * 3600 * peak)

    @property
    def fits(self) -> bool:
        """Whether the memory of a device is enough."""
        return self.memory.total <= USABLE * ACCELERATORS[self.device].memory

    def way_out(self) -> str:
        """The first setting, from the cheapest on, with which the run is estimated to fit."""
        rows = self.config.batch_size // (self.shape[0] * self.shape[1])
        for accumulate in (n for n in range(self.config.accumulate + 1, rows + 1) if rows % n == 0):
            changed = dataclasses.replace(self.config, accumulate=accumulate)
            if make_plan(changed, self.device).fits:
                return f"--accumulate {accumulate}"
        remat = dataclasses.replace(self.config.model, remat="full")
        changed = dataclasses.replace(self.config, model=remat, accumulate=rows)
        if changed != self.config and make_plan(changed, self.device).fits:
            parts = f"--accumulate {rows} " if rows > self.config.accumulate else ""
            return f"{parts}--model.remat full"
        return "more devices along --mesh.fsdp or --mesh.tensor, or a shorter --context"


def make_plan(
    config: RunConfig,
    device: AcceleratorName = "h100",
    *,
    utilization: float = 0.3,
    target: Path | None = None,
) -> Plan:
    """Works out what a run needs.

    Args:
      config: The run; `mesh.data` counts as 1 where it is None.
      device: What to run on.
      utilization: The part of the device's peak to count on, above 0 and at most 1.
      target: XLA's description of that device. The step is compiled for it, ahead of time.

    Raises:
      ValueError: If the mesh does not divide the batch or a dimension of the model, if the
        utilization is out of range, or if there is no compiler for the target.

    Example:
      >>> from train.config.named import nano
      >>> plan = make_plan(nano())
      >>> plan.devices, plan.memory.parameters, plan.fits
      (1, 533760, True)
    """
    if not 0 < utilization <= 1:
        raise ValueError(f"utilization={utilization} is not allowed: it must be in (0, 1].")
    mesh = abstract_mesh(config.mesh)
    batch_sharding(mesh, config.batch_size)
    check_micro_batches(config.batch_size, config.accumulate, mesh)
    task = task_of(config)
    optimizer = build_optimizer(config.optimizer, config.schedule, config.steps)
    state = abstract_state(task, optimizer.transformation, mesh)
    parameters = _bytes_on_a_device(state.params)
    gradients = parameters if config.accumulate == 1 else 2 * parameters
    if target is None:
        assert task.activation_bytes is not None
        activations = task.activation_bytes(_platform(device))
    else:
        devices = math.prod(mesh.axis_sizes)
        activations = max(temporary_bytes(config, target, devices) - gradients, 0)
    memory = Memory(
        parameters,
        _bytes_on_a_device(state.opt_state),
        gradients,
        activations,
        compiled=target is not None,
    )
    return Plan(config, task, device, utilization, optax.tree.size(state.params), memory)


def _platform(device: AcceleratorName) -> str:
    return "tpu" if device.startswith("tpu") else "gpu"


def _bytes_on_a_device(tree: Any) -> int:
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def temporary_bytes(config: RunConfig, target: Path, devices: int) -> int:
    """What the compiled train step holds on each device besides its state and its batch.

    Args:
      config: The run.
      target: XLA's description of a GPU, such as `benchmarks/h100_target.txtpb`.
      devices: How many of them there would be, all in one node.

    Raises:
      ValueError: If JAX's CUDA plugin, which has the compiler, or cuDNN is not installed.
    """
    mesh = make_mesh(config.mesh, described_devices(target, devices, INSTALL))
    kind = resolve_kind(config.model, "gpu")  # 'auto' would look at the platform here.
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, attention=kind))
    try:
        compiled = compile_ahead(config, task_of(config), mesh)
    except RuntimeError as error:
        raise ValueError(
            f"the step could not be compiled for {target} ({error}): cuDNN is needed as well as "
            "JAX's CUDA plugin; install it, or leave the target out for an estimate."
        ) from error
    return compiled.memory_analysis().temp_size_in_bytes  # type: ignore[union-attr]


def described_devices(target: Path, count: int, cure: str) -> list[jax.Device]:
    """GPUs of one node, to be named in shardings and compiled for.

    Args:
      target: XLA's description of one.
      count: How many.
      cure: Where JAX's CUDA plugin comes from, which has the compiler.

    Raises:
      ValueError: If the plugin is not installed.
    """
    # The plugin would look for a driver, which compiling does not need.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    try:
        node = topologies.get_topology_desc(
            platform="cuda",
            topology_name="described",
            topology=f"1x1x{count}",
            target_config=target.read_text(),
        )
    except (NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"{target} can only be compiled for with JAX's CUDA plugin {cure}"
        ) from error
    return list(node.devices)
