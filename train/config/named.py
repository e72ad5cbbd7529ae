"""Named configurations, each a function whose docstring says how to run it and what to expect.

`RUNS` and `COMPARISONS` list them for the command line, where every setting can be overridden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType

from models import PRESETS
from train.config.comparison import Comparison, Contestant
from train.config.run import RunConfig, ScheduleConfig
from train.data import DataConfig
from train.optimizers import OPTIMIZERS, AdamW

# On a CPU bfloat16 is emulated: small models compute in float32.
NANO = dataclasses.replace(PRESETS["nano"], dtype="float32")
MICRO = dataclasses.replace(PRESETS["micro"], dtype="float32")
FINEWEB = DataConfig(source="hf:HuggingFaceFW/fineweb:sample/10BT/*.parquet", tokenizer="bpe:32000")


def nano() -> RunConfig:
    """0.13M parameters on the embedded text: about 20 seconds on two CPU cores."""
    return RunConfig(model=NANO, optimizer=AdamW.nano(), steps=400, eval_every=100)


def micro() -> RunConfig:
    """0.9M parameters on the embedded text: several minutes on two CPU cores."""
    return RunConfig(
        model=MICRO, optimizer=AdamW(learning_rate=3e-3), steps=1000, context=256, eval_every=100,
        schedule=ScheduleConfig(warmup_steps=50),
    )  # fmt: skip


def paper_consistent() -> RunConfig:
    """134M on FineWeb, 640 steps of 1024 x 4096: the reading of the papers that fits their hours.

    2.68 billion tokens, 20 a parameter. Made for one node of 8 GPUs, `--mesh.fsdp 8`: the 128
    sequences of a device are computed in 8 parts. `python -m train plan` tells about others.
    """
    return RunConfig(
        model=PRESETS["paper_wide"], data=FINEWEB, optimizer=AdamW(learning_rate=3e-4),
        schedule=ScheduleConfig(warmup_steps=64), steps=640, batch_size=1024, context=4096,
        accumulate=8, eval_every=64, eval_batches=8, checkpoint_every=64,
    )  # fmt: skip


def paper_epoch() -> RunConfig:
    """134M on FineWeb, 2,384 steps of 1024 x 4096: one pass over the 10-billion-token sample."""
    return dataclasses.replace(
        paper_consistent(), steps=2384, schedule=ScheduleConfig(warmup_steps=238)
    )


def paper_literal() -> RunConfig:
    """134M on FineWeb, 100,000 steps of 1024 x 4096, as the Aardvark paper prints it (section 3.1).

    419 billion tokens: 330 to 600 A100-hours at full utilization, 17 to 30 times the 19.8 that the
    paper's Table 1 reports. Refused without `--accept-cost`.
    """
    return dataclasses.replace(
        paper_consistent(), steps=100_000, schedule=ScheduleConfig(warmup_steps=2000),
        eval_every=1000, checkpoint_every=1000,
    )  # fmt: skip


def tuned() -> RunConfig:
    """134M on FineWeb as `paper_consistent`, at the rate where tuned AdamW sits: 8e-3.

    Wen et al., 2025, "Fantastic pretraining optimizers and where to find them".
    """
    return dataclasses.replace(paper_consistent(), optimizer=AdamW(learning_rate=8e-3))


def compare() -> Comparison:
    """Eight optimizers, 0.13M parameters, embedded text: about 7 minutes on two CPU cores."""
    return Comparison(
        model=NANO,
        contestants=tuple(Contestant(kind.nano()) for kind in OPTIMIZERS),
        steps=400,
        seeds=5,
        eval_every=50,
        checkpoint_every=200,
    )


def compare_quick() -> Comparison:
    """The same for a tenth of the steps: about two minutes, enough to see that everything works."""
    return dataclasses.replace(
        compare(), steps=40, seeds=3, eval_every=20, log_every=2, cost_rounds=3,
        checkpoint_every=40, schedule=ScheduleConfig(warmup_steps=4),
    )  # fmt: skip


RUNS: Mapping[str, Callable[[], RunConfig]] = MappingProxyType(
    {
        make.__name__: make
        for make in (nano, micro, paper_consistent, paper_epoch, paper_literal, tuned)
    }
)
