"""What a run needs, before anybody rents a device: `python -m train plan`.

Parameters, optimizer state and gradients are exact: they are laid out on the mesh abstractly, as a
run does it. Activations are estimated, or counted by the compiler where it is given a description
of the device. Times follow from the FLOPs, at a peak and a utilization that are stated.

An estimate of what a train step holds besides parameters, optimizer state and gradients.

It counts the arrays that the backward pass reads, as the model's equations have them. A compiler
fuses some away and adds others: compile where a tenth matters.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

import models
from models.attention import resolve_kind
from train.config.run import RunConfig
from train.inspection.aot_devices import temporary_bytes
from train.optimizers.build import build_optimizer
from train.step.accelerators import ACCELERATORS, AcceleratorName, Budget, budget
from train.step.accumulation import check_micro_batches
from train.step.sharding import abstract_mesh, batch_sharding, mesh_shape
from train.step.state import TrainState, abstract_state
from train.tasks.loss import logit_tokens

GRADIENTS = 0.5
"""Bytes of a layer's gradients that exist at once, as a part of what the layer computes."""


def estimate_activations(config: RunConfig, platform: str) -> float:
    """Bytes a device holds between forward and backward pass, when it holds the most.

    It came within 3 % of what the compiler counted for an H100 at 134M, unrolled: 16 sequences of
    4096 tokens with all kept, with 'dots' and with 'full' rematerialization, and 4 with all kept.

    Args:
      config: The run; `mesh.data` counts as 1 where it is None.
      platform: 'cpu', 'gpu' or 'tpu'; decides whether attention keeps its weights.
    """
    model, tensor = config.model, config.mesh.tensor
    shards = (config.mesh.data or 1) * config.mesh.fsdp
    tokens = config.tokens_per_step // shards // config.accumulate
    layer = _layer_bytes(config, platform)
    kept = {"none": layer, "dots": _dots_bytes(config), "full": _stream_bytes(config)}[model.remat]
    again = layer - kept
    if model.remat == "none" and model.unroll < model.layers:
        kept *= 2  # A rolled loop stacks what it keeps, float32 intermediates included.
    logits = logit_tokens(model, tokens, config.loss_chunk) * model.vocab_size / tensor
    # First the loss is at work, on float32 logits and their gradient in the compute dtype; then a
    # layer, on its gradients and on what it computes again.
    loss_bytes = (4 + _itemsize(config)) * logits
    return tokens * model.layers * kept + max(loss_bytes, tokens * (again + GRADIENTS * layer))


def _stream_bytes(config: RunConfig) -> float:
    """A token's residual stream."""
    return _itemsize(config) * config.model.d_model


def _dots_bytes(config: RunConfig) -> float:
    """A token's q, k, v, gate and up, what attention adds to the stream, and the layer's input."""
    model = config.model
    heads = model.d_model + 2 * model.key_value_heads * model.head_dim
    split = (heads + 2 * model.d_ff) / config.mesh.tensor
    return _itemsize(config) * (2 * model.d_model + split)


def _layer_bytes(config: RunConfig, platform: str) -> float:
    """All that a layer keeps of a token: stream and norms; q, k, v and what is read; the MLP."""
    model = config.model
    heads = 2 * model.d_model + 2 * model.key_value_heads * model.head_dim
    split = (heads + 3 * model.d_ff) / config.mesh.tensor
    kept = _itemsize(config) * (4 * model.d_model + split)
    if resolve_kind(model, platform) != "cudnn":  # All weights of the attention to earlier tokens.
        kept += (4 + _itemsize(config)) * model.heads / config.mesh.tensor * config.context
    return kept


def _itemsize(config: RunConfig) -> int:
    return 4 if config.model.dtype == "float32" else 2


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
    device: AcceleratorName
    utilization: float
    """The part of the peak that the run is assumed to reach."""
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
        return budget(self.config)

    @property
    def tokens_per_second(self) -> float:
        """Of all devices together."""
        flops = models.flops_per_token(self.config.model, self.config.context)
        return self.devices * ACCELERATORS[self.device].peak_flops * self.utilization / flops

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
    state = _abstract_state(config, mesh)
    parameters = _bytes_on_a_device(state.params)
    gradients = parameters if config.accumulate == 1 else 2 * parameters
    if target is None:
        activations = estimate_activations(config, _platform(device))
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
    return Plan(config, device, utilization, memory)


def _platform(device: AcceleratorName) -> str:
    return "tpu" if device.startswith("tpu") else "gpu"


def _abstract_state(config: RunConfig, mesh: Mesh) -> TrainState:
    optimizer = build_optimizer(config.optimizer, config.schedule, config.steps)
    return abstract_state(config.model, optimizer.transformation, mesh)


def _bytes_on_a_device(tree: Any) -> int:
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
