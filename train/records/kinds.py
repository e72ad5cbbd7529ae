"""What the records of a run say, one frozen dataclass for each kind of line.

Times are in seconds, sizes in bytes, losses in nats per token. Norms are keyed by layer type.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

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


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """Which model was trained."""

    name: str
    parameters: int
    flops_per_token: float


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """Which text it was trained on; ``bytes_per_token`` is the validation split's."""

    source: str
    tokenizer: str
    fingerprint: str
    bytes_per_token: float
    train_tokens: int


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The first line of a run: everything that its numbers depend on.

    ``config`` is the whole configuration as `to_dict` gives it, ``config_hash`` its
    name; records of elsewhere may lack it. ``after`` is the optimizer that this one differs from in
    one thing, in a ladder. ``weights`` is the SHA-256 of the file of parameters that it began with,
    empty where they are its seed's.
    """

    kind: ClassVar[str] = "run"
    name: str
    optimizer: str
    title: str
    seed: int
    config_hash: str
    commit: str
    device: str
    device_count: int
    versions: dict[str, str]
    model: ModelSummary
    data: DataSummary
    batch_size: int
    context: int
    steps: int
    learning_rate: float
    started: str
    config: dict[str, Any] = field(default_factory=dict)
    after: str = ""
    weights: str = ""

    @property
    def tokens(self) -> int:
        """The tokens of the whole run, as planned."""
        return self.steps * self.batch_size * self.context


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One logged training step; ``skipped`` counts the steps skipped since the start."""

    kind: ClassVar[str] = "step"
    step: int
    tokens: int
    loss: float
    learning_rate: float
    grad_norm: float
    grad_norms: dict[str, float] = field(default_factory=dict)
    update_norms: dict[str, float] = field(default_factory=dict)
    param_norms: dict[str, float] = field(default_factory=dict)
    skipped: int = 0
    seconds: float


@dataclass(frozen=True, kw_only=True)
class SpikeRecord:
    """A step that stands out: its loss is far above those before it, or it was skipped.

    It read the rows from ``first_row`` to ``last_row`` of the shuffled training data, counted on
    from epoch to epoch. ``median`` and ``deviation`` are of the losses logged before it, and NaN
    where those are too few.
    """

    kind: ClassVar[str] = "spike"
    step: int
    tokens: int
    loss: float
    median: float
    deviation: float
    grad_norm: float
    skipped: bool
    first_row: int
    last_row: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class EvalRecord:
    """The loss over the whole validation split after ``step`` steps."""

    kind: ClassVar[str] = "eval"
    step: int
    tokens: int
    loss: float
    bits_per_byte: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class FinalRecord:
    """The last line of a run; ``train_loss`` is the mean over the last twentieth of the steps.

    ``tokens_per_second`` is of all devices, ``mfu`` the share of their ``peak_flops`` (of one
    device, a second) that the model's exact causal FLOPs take; both are None where the device's
    peak is not known. ``peak_bytes`` is what the compiled step needs on a device.
    """

    kind: ClassVar[str] = "final"
    step: int
    tokens: int
    train_loss: float
    val_loss: float
    bits_per_byte: float
    seconds: float
    device_seconds: float
    peak_bytes: int | None
    state_bytes_per_parameter: float
    skipped: int
    diverged: bool
    tokens_per_second: float | None = None
    peak_flops: float | None = None
    mfu: float | None = None


@dataclass(frozen=True, kw_only=True)
class CostRecord:
    """What an optimizer's step costs, timed in one process in turn with the baseline's.

    ``step_ratio`` is the median over the rounds of step time over the baseline's, ``ratio_low`` and
    ``ratio_high`` are the quartiles; ``step_control`` is the same of the baseline's own step once
    more, which is 1 but for noise. ``flops`` and ``bytes_accessed`` are the compiler's counts, in
    which a loop counts once. ``mesh_reason`` says why there is no ``mesh``.
    """

    kind: ClassVar[str] = "cost"
    optimizer: str
    title: str
    step_ratio: float
    ratio_low: float
    ratio_high: float
    rounds: int
    step_seconds: float
    state_bytes_per_parameter: float
    peak_bytes: int | None = None
    compile_seconds: float | None = None
    flops: float | None = None
    bytes_accessed: float | None = None
    step_control: Ratio | None = None
    update: UpdateCost | None = None
    mesh: MeshCost | None = None
    mesh_reason: str | None = None


Record = RunRecord | StepRecord | EvalRecord | FinalRecord | CostRecord | SpikeRecord
