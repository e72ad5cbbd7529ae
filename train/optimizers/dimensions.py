"""The kinds of dimension that a search space has: how a number in [0, 1] becomes a setting.

Every kind maps the unit interval onto its values, so that one quasi-random point of the unit cube
means the same place in the space of every optimizer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Uniform:
    """Between two numbers, edges included; each difference is as likely as the next.

    Example:
      >>> Uniform("decay_rate", 0.5, 1.0).at(0.5)
      0.75
    """

    field: str
    """Of the optimizer's configuration."""
    low: float
    high: float

    def __post_init__(self) -> None:
        lowest, highest = self._domain
        if not lowest < self.low < self.high < highest:
            raise ValueError(
                f"{self} is an empty range: it must have {lowest:g} < low < high < {highest:g}."
            )

    _domain = (-math.inf, math.inf)

    def at(self, unit: float) -> float:
        """The value at a place between 0 and 1, to four digits: more mean nothing."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        value = self._unscaled(low + (high - low) * unit)
        digits = 3 - math.floor(math.log10(min(abs(value), abs(1 - value)) or 1.0))
        return min(max(round(value, digits), self.low), self.high)

    def place(self, value: float) -> float:
        """Where a value lies: 0 at the lower edge, 1 at the upper one."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(value) - low) / (high - low)

    def holds(self, value: float) -> bool:
        """Whether a value lies in the range."""
        return self.low <= value <= self.high

    def _scaled(self, value: float) -> float:
        """The quantity that is uniform, as a function of the value."""
        return value

    def _unscaled(self, scaled: float) -> float:
        return scaled


@dataclass(frozen=True)
class LogUniform(Uniform):
    """Between two positive numbers, edges included; each factor is as likely as the next.

    Example:
      >>> LogUniform("learning_rate", 1e-4, 1e-2).at(0.5)
      0.001
    """

    _domain = (0.0, math.inf)

    def _scaled(self, value: float) -> float:
        return math.log(value)

    def _unscaled(self, scaled: float) -> float:
        return math.exp(scaled)


@dataclass(frozen=True)
class LogComplement(Uniform):
    """The decay of a moving average, log-uniform in the averaging time 1 / (1 - decay).

    Example:
      >>> LogComplement("b2", 0.9, 0.999).at(0.5)
      0.99
    """

    _domain = (0.0, 1.0)

    def _scaled(self, value: float) -> float:
        return -math.log1p(-value)

    def _unscaled(self, scaled: float) -> float:
        return -math.expm1(-scaled)


@dataclass(frozen=True)
class Choices:
    """One of several values, each as likely as the next; they have no order and no edge.

    Example:
      >>> Choices("reference", ("ema", "layer_mean")).at(0.7)
      'layer_mean'
    """

    field: str
    """Of the optimizer's configuration."""
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if len(self.values) < 2 or any(self.values.count(value) > 1 for value in self.values):
            raise ValueError(f"{self} is no choice: it must have two or more different values.")

    def at(self, unit: float) -> Any:
        """The value at a place between 0 and 1."""
        return self.values[min(int(unit * len(self.values)), len(self.values) - 1)]

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return value in self.values


AVERAGING = LogComplement("b2", 0.9, 0.9995)
"""Of the second moment, and of Lion's momentum: 0.98 is where tuned AdamW sits (Wen et al., 2025),
0.999 is Adam's own default."""

DECAY = LogUniform("weight_decay", 0.01, 1.0)

Dimension = Uniform | LogUniform | LogComplement | Choices
