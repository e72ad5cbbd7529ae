"""Parts of a cost record: ratios of times taken in turn, the update alone, and a device of a mesh.

Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Ratio:
    """Times over other times taken in the same rounds: the median over the rounds and quartiles."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.2f}-{self.high:.2f})"


def ratio(times: ArrayLike, others: ArrayLike) -> Ratio:
    """Compares round by round, so that a machine's drift cancels.

    Args:
      times: Seconds, one number a round.
      others: The same of what it is compared to.

    Example:
      >>> ratio([2.0, 4.0, 6.0], [1.0, 4.0, 4.0])
      Ratio(low=1.25, median=1.5, high=1.75)
    """
    low, median, high = np.quantile(np.divide(times, others), [0.25, 0.5, 0.75])
    return Ratio(low=float(low), median=float(median), high=float(high))


@dataclass(frozen=True, kw_only=True)
class UpdateCost:
    """The optimizer alone: from gradients to new parameters and state, in the old ones' memory.

    ``ratio`` is to the baseline's update, ``control`` is the baseline's own once more to itself,
    ``share`` is to a whole step of the baseline's, all in the same rounds; ``flops`` and
    ``bytes_accessed`` are the compiler's counts.
    """

    rounds: int
    seconds: float
    ratio: Ratio
    control: Ratio
    share: Ratio
    compile_seconds: float
    flops: float | None
    bytes_accessed: float | None


@dataclass(frozen=True, kw_only=True)
class MeshCost:
    """One device of a mesh, such as ``fsdp=8``, and what it exchanges with the others in a step.

    ``collective_bytes`` is by kind: of every operation the arrays that go into a device or those
    that come out, whichever are larger. The program is XLA's for CPU devices.
    """

    mesh: str
    devices: int
    parameter_bytes: int
    state_bytes: int
    collective_bytes: dict[str, int]
