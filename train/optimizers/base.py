"""What an optimizer of the harness is: settings that build it, and what of them is tuned."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import optax

from train.optimizers.dimensions import Dimension


@dataclass(frozen=True)
class OptimizerConfig(abc.ABC):
    """The settings of an optimizer, as a frozen dataclass with a default for each.

    The step adds what is equal for all: the schedule's shape and, unless `has_guard`, a guard that
    lets no non-finite step into the state.
    """

    learning_rate: float
    """Peak of the schedule."""
    weight_decay: float
    """Decoupled, on matrices alone."""

    search: ClassVar[tuple[Dimension, ...]]
    """The settings that are tuned, and between which values. Three for every optimizer, so that a
    budget of N trials means the same for all: the peak rate, the weight decay, and how long it
    averages. Ranges of rates span three decades and hold the papers' 3e-4; where that leaves a
    choice, the middle is the best rate of a coarse grid: half-decade steps on the nano comparison,
    one seed. Ranges of decays span two decades around the default."""
    nano_settings: ClassVar[Mapping[str, Any]] = {}
    """For the nano comparison: the best of sixteen trials (`results/study/tuning.jsonl`), in which
    every optimizer had the same steps, data and seed; the seed is none of the comparison's."""
    has_guard: ClassVar[bool] = False
    """Whether it brings a guard against non-finite gradients itself."""

    @abc.abstractmethod
    def build(self, learning_rate: optax.Schedule, steps: int) -> optax.GradientTransformation:
        """The transformation that a run of `steps` steps uses, its own clip and decay in it.

        Args:
          learning_rate: The rate at each update, with warm-up and decay.
          steps: Length of the run, for what warms up over all of it.
        """

    @property
    def infers_sharding(self) -> bool:
        """Whether its state has rows or columns whose sharding JAX's types leave open."""
        return False

    @property
    def key(self) -> str:
        """Its name on the command line, in folders and in records, such as `adamw`."""
        return type(self).__name__.lower()

    @classmethod
    def nano(cls) -> Self:
        """The configuration for the nano comparison."""
        return cls(**cls.nano_settings)


def clipped(
    clip: float | None, inner: optax.GradientTransformation
) -> optax.GradientTransformation:
    """The transformation behind a clip by the global norm, or by itself where that is None."""
    return inner if clip is None else optax.chain(optax.clip_by_global_norm(clip), inner)
