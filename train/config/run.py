"""What a run is: frozen dataclasses that check themselves, and a hash that names the run.

The optimizers' own dataclasses are in `train.optimizers.settings`, the model's in `models.config`,
the data's in `train.data.config`; named configurations are in `train.config.named`.

Who takes part in a comparison: an optimizer's settings, under a name of their own.

Two settings of one method, such as Aardvark with and without its clip, can so stand in one table.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from models import TransformerConfig
from train.data import DataConfig
from train.host.typed_json import within
from train.optimizers.settings import AdamW, OptimizerConfig

_LONGEST = 100
"""Letters of a folder's name; file systems take 255 bytes, of which a seed needs some."""


@dataclass(frozen=True)
class Contestant:
    """An optimizer and what tables call it.

    Args:
      optimizer: Its settings.
      title: What tables call it; by default the optimizer's class.
      after: In a ladder, the name of the contestant that it differs from in one thing.

    Raises:
      ValueError: If the title has nothing to name a folder by.

    Example:
      >>> from train.optimizers.settings import AdamW
      >>> Contestant(AdamW()).name, Contestant(AdamW(clip=None), "AdamW, no clip").name
      ('adamw', 'adamw-no-clip')
    """

    optimizer: OptimizerConfig
    title: str = ""
    after: str = ""

    def __post_init__(self) -> None:
        if not self.title:
            object.__setattr__(self, "title", type(self.optimizer).__name__)
        if not 0 < len(self.name) <= _LONGEST:
            raise ValueError(
                f"the title {self.title!r:.80} is not allowed: it names a folder, so it needs a "
                f"letter or digit of a-z and 0-9, and {_LONGEST} at most."
            )

    @property
    def name(self) -> str:
        """The title as folders, records and the command line have it, such as `adamw-no-clip`."""
        return re.sub(r"[^a-z0-9.]+", "-", self.title.lower()).strip("-.")


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over the run: linear warm-up from 0, then a decay to a fraction of the peak."""

    warmup_steps: int = 20
    """Steps until the peak rate."""
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the way down."""
    final_fraction: float = 0.1
    """Rate of the last step as a fraction of the peak (unused by `constant`)."""


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
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        batches = self.eval_batches
        _require(batches is None or batches >= 1, "eval_batches", batches, "at least 1, or None")
        chunk = self.loss_chunk
        _require(chunk is None or chunk >= 1, "loss_chunk", chunk, "at least 1, or None")
        warmup, fraction = self.schedule.warmup_steps, self.schedule.final_fraction
        allowed = f"between 0 and steps={self.steps}"
        _require(0 <= warmup <= self.steps, "schedule.warmup_steps", warmup, allowed)
        _require(0 <= fraction <= 1, "schedule.final_fraction", fraction, "between 0 and 1")
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
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step sees."""
        return self.batch_size * self.context


@dataclass(frozen=True, kw_only=True)
class RunConfig(Experiment):
    """One training run: everything that decides its result."""

    optimizer: OptimizerConfig = field(default_factory=AdamW)
    seed: int = 0
    """Decides the initial parameters and the order of the data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rate = self.optimizer.learning_rate
        _require(rate > 0, "optimizer.learning_rate", rate, "a positive number")
        _require(self.seed >= 0, "seed", self.seed, "0 or more")


class Entry(NamedTuple):
    """One run of a comparison: whose it is, and what is run."""

    contestant: Contestant
    config: RunConfig

    @property
    def name(self) -> str:
        """Its folder, such as `adamw-s0`."""
        return f"{self.contestant.name}-s{self.config.seed}"


@dataclass(frozen=True, kw_only=True)
class Comparison(Experiment):
    """The same experiment for several optimizers and seeds; within a seed all else is equal."""

    contestants: Annotated[tuple[Contestant, ...], tyro.conf.Suppress]
    """The first, AdamW, is the baseline that the others are measured against."""
    seeds: int = 2
    """Each seed gives every optimizer the same initial parameters and the same batches."""
    cost_rounds: int = 9
    """Rounds in which the optimizers' steps are timed in turn; 0 measures no costs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.seeds >= 1, "seeds", self.seeds, "at least 1")
        rounds = self.cost_rounds
        _require(rounds == 0 or rounds >= 3, "cost_rounds", rounds, "at least 3, or 0 for no costs")
        names = [contestant.name for contestant in self.contestants]
        _require(len(set(names)) == len(names), "contestants", names, "one of each name")
        self.runs()  # Each checks its own optimizer.

    def runs(self) -> list[Entry]:
        """All runs, every contestant on a seed before the next seed, so that stopping is fair."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(Experiment)}
        return [
            Entry(contestant, RunConfig(optimizer=contestant.optimizer, seed=seed, **shared))
            for seed in range(self.seeds)
            for contestant in self.contestants
        ]


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name}={value!r} is not allowed: it must be {allowed}.")


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON values; each optimizer carries its kind."""
    if dataclasses.is_dataclass(config):
        fields = {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"kind": type(config).__name__, **fields}
    if isinstance(config, tuple | list):
        return [to_dict(item) for item in config]  # type: ignore[return-value]
    return config


def config_hash(config: Any) -> str:
    """Twelve hexadecimal digits that name what is computed, on whatever mesh."""
    text = json.dumps(on_any_mesh(to_dict(config)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def on_any_mesh(plain: Any) -> Any:
    """A result of `to_dict` with the default mesh: a run may go on with other devices.

    Example:
      >>> on_any_mesh({"steps": 10, "mesh": to_dict(MeshConfig(fsdp=8))})["mesh"]["fsdp"]
      1
    """
    if isinstance(plain, list):  # the members of a population
        return [on_any_mesh(item) for item in plain]
    return plain | {"mesh": to_dict(MeshConfig())} if "mesh" in plain else plain


def first_difference(ours: Any, theirs: Any, path: str = "") -> str | None:
    """The first setting in which two `to_dict` results differ, as a readable phrase.

    Example:
      >>> first_difference({"steps": 10}, {"steps": 20})
      'steps: 10 here, 20 there'
    """
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            found = first_difference(ours.get(key), theirs.get(key), within(path, key))
            if found:
                return found
        return None
    return None if ours == theirs else f"{path}: {ours!r:.80} here, {theirs!r:.80} there"
