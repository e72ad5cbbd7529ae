"""What a run is: frozen dataclasses that check themselves.

The optimizers' own dataclasses are in `train.optimizers`, the model's in `models.config`, the
data's in `train.data.config`; named configurations are in `train.config.named`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

import optax

from models import TransformerConfig
from train.data import DataConfig
from train.optimizers import AdamW, AnyOptimizer


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over the run: linear warm-up from 0, then a decay to a fraction of the peak."""

    warmup_steps: int = 20
    """Steps until the peak rate."""
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the way down."""
    final_fraction: float = 0.1
    """Rate of the last step as a fraction of the peak (unused by `constant`)."""

    def build(self, peak: float, steps: int) -> optax.Schedule:
        """The learning rate as a function of the updates made so far.

        Its first value is already above zero: update `k` of the warm-up runs at
        `(k + 1) / warmup_steps` of the peak.

        Args:
          peak: Highest rate, reached in the last step of the warm-up.
          steps: Steps of the whole run, at which the decay ends.

        Example:
          >>> rate = ScheduleConfig(warmup_steps=4).build(1.0, steps=100)
          >>> [round(float(rate(step)), 2) for step in (0, 3, 52, 100)]
          [0.25, 1.0, 0.55, 0.1]
        """
        warmup = optax.linear_schedule(
            peak / max(self.warmup_steps, 1), peak, max(self.warmup_steps - 1, 1)
        )
        decay_steps = max(steps - self.warmup_steps, 1)
        match self.decay:
            case "cosine":
                decay = optax.cosine_decay_schedule(peak, decay_steps, self.final_fraction)
            case "linear":
                decay = optax.linear_schedule(peak, peak * self.final_fraction, decay_steps)
            case "constant":
                decay = optax.constant_schedule(peak)
        return optax.join_schedules([warmup, decay], [self.warmup_steps])


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; their product must be the number of devices in use."""

    data: int | None = None
    """Replicas of the parameters; None takes every device that the other axes leave."""
    fsdp: int = 1
    """Devices that share one copy of parameters and optimizer state."""
    tensor: int = 1
    """Devices that share heads, MLP columns and vocabulary."""
    axes: Literal["auto", "explicit"] = "auto"
    """Who decides how intermediate arrays are sharded: the compiler alone, or JAX too, which then
    checks the shardings of gradients, updates and state as part of their types."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What every run of a comparison has in common: all but the optimizer and the seed."""

    model: TransformerConfig
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    steps: int = 200
    """Optimizer steps of a run."""
    batch_size: int = 16
    """Sequences a step, over all devices."""
    context: int = 128
    """Tokens a sequence; at most the model's context."""
    accumulate: int = 1
    """Micro-batches that a step computes one after the other, for a batch too large for memory."""
    loss_chunk: int | None = None
    """Tokens of a device whose logits exist at once; None chooses by their size."""
    log_every: int = 10
    """Steps between two records of the training loss and the norms."""
    eval_every: int = 50
    """Steps between two evaluations."""
    eval_batches: int | None = None
    """Validation batches an evaluation; None reads the whole validation split."""
    checkpoint_every: int = 100
    """Steps between two checkpoints: what a crash can lose."""
    max_consecutive_skips: int = 20
    """Non-finite steps in a row after which a run stops loudly."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "context", "accumulate", "log_every", "eval_every",
                     "checkpoint_every", "max_consecutive_skips"):  # fmt: skip
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        batches = self.eval_batches
        require(batches is None or batches >= 1, "eval_batches", batches, "at least 1, or None")
        chunk = self.loss_chunk
        require(chunk is None or chunk >= 1, "loss_chunk", chunk, "at least 1, or None")
        warmup, fraction = self.schedule.warmup_steps, self.schedule.final_fraction
        allowed = f"between 0 and steps={self.steps}"
        require(0 <= warmup <= self.steps, "schedule.warmup_steps", warmup, allowed)
        require(0 <= fraction <= 1, "schedule.final_fraction", fraction, "between 0 and 1")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate={self.accumulate} does not divide batch_size={self.batch_size}: "
                f"take a divisor of {self.batch_size}."
            )
        if self.context > self.model.context:
            raise ValueError(
                f"context={self.context} is longer than the model's context of "
                f"{self.model.context}: shorten it or raise --model.context."
            )

    @property
    def terms(self) -> dict[str, Any]:
        """The settings that every run has in common, without those of a subclass."""
        return {field.name: getattr(self, field.name) for field in fields(Experiment)}

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step sees."""
        return self.batch_size * self.context


@dataclass(frozen=True, kw_only=True)
class RunConfig(Experiment):
    """One training run: everything that decides its result."""

    optimizer: AnyOptimizer = field(default_factory=AdamW)
    seed: int = 0
    """Decides the initial parameters and the order of the data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rate = self.optimizer.learning_rate
        require(rate > 0, "optimizer.learning_rate", rate, "a positive number")
        require(self.seed >= 0, "seed", self.seed, "0 or more")


def require(holds: bool, name: str, value: object, allowed: str) -> None:
    """Refuses a setting that does not hold, with its value and what is allowed."""
    if not holds:
        raise ValueError(f"{name}={value!r} is not allowed: it must be {allowed}.")
