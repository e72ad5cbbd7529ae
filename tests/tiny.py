"""The smallest experiment that has every part: for tests that train."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from models import TransformerConfig
from train.config import RunConfig, ScheduleConfig
from train.data import DataConfig
from train.optimizer_configs import (
    LAMB,
    Aardvark,
    Adafactor,
    AdamW,
    AdEMAMix,
    Lion,
    Muon,
    OptimizerConfig,
    StratOpt,
)

MODEL = TransformerConfig(
    vocab_size=272, context=16, layers=2, d_model=16, heads=4, kv_heads=2, d_ff=32, dtype="float32"
)

OPTIMIZERS: tuple[OptimizerConfig, ...] = (
    AdamW(learning_rate=1e-2),
    AdEMAMix(learning_rate=1e-2),
    Lion(learning_rate=1e-3),
    LAMB(learning_rate=1e-2),
    Adafactor(learning_rate=1e-2, min_dim_size_to_factor=8),
    Muon(learning_rate=1e-2),
    StratOpt(learning_rate=3e-3),
    Aardvark(learning_rate=1e-2),
)


def run_config(cache: Path, **changes: Any) -> RunConfig:
    """Twelve steps of eight sequences of sixteen tokens, on synthetic text cached under `cache`."""
    config = RunConfig(
        model=MODEL,
        data=DataConfig(source="synthetic", cache_dir=str(cache)),
        schedule=ScheduleConfig(warmup_steps=3),
        steps=12,
        batch_size=8,
        context=16,
        log_every=2,
        eval_every=4,
        eval_batches=2,
        checkpoint_every=4,
        optimizer=OPTIMIZERS[0],
    )
    return dataclasses.replace(config, **changes)


def optimizer_name(config: OptimizerConfig) -> str:
    """A name for pytest's ids."""
    return type(config).__name__
