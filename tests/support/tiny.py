"""The smallest experiment that has every part: for tests that train."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import models
from models import TransformerConfig
from train import optimizers
from train.config.run import RunConfig, ScheduleConfig
from train.data import DataConfig
from train.optimizers import Adafactor, Lion, OptimizerConfig, StratOpt
from train.tasks import task_of

MODEL = TransformerConfig(
    vocab_size=272, context=16, layers=2, d_model=16, heads=4, kv_heads=2, d_ff=32, dtype="float32"
)

OWN: dict[type[OptimizerConfig], dict[str, Any]] = {
    Lion: {"learning_rate": 1e-3},
    Adafactor: {"min_dim_size_to_factor": 8},
    StratOpt: {"learning_rate": 3e-3},
}
"""Where twelve steps of something so small want another setting than a rate of 1e-2."""

OPTIMIZERS: tuple[OptimizerConfig, ...] = tuple(
    kind(**{"learning_rate": 1e-2} | OWN.get(kind, {})) for kind in optimizers.OPTIMIZERS
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


TASK = task_of(run_config(Path("no data")))
"""The task of `MODEL`, for what reads no data."""


def params(seed: int = 0) -> Any:
    """Parameters of `MODEL`'s shapes, drawn by NumPy: nothing to compile."""
    return _normal(_shapes(), seed, 0.02)


def gradients(seed: int, size: float = 0.1) -> Any:
    """Gradients of `MODEL`'s shapes, likewise."""
    return _normal(_shapes(), 1000 + seed, size)


@functools.cache
def _shapes() -> Any:
    return jax.eval_shape(lambda: models.init(MODEL, jax.random.key(0)))


def _normal(shapes: Any, seed: int, size: float) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(scale=size, size=x.shape), jnp.float32), shapes
    )


def optimizer_name(config: OptimizerConfig) -> str:
    """A name for pytest's ids."""
    return type(config).__name__
