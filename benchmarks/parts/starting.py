"""What a process does before its second step, phase by phase; called in a process of its own."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax

import models
from benchmarks.parts import outcome, train_programs, unrolled
from train.config.run import MeshConfig, RunConfig
from train.step.optimizer import Optimizer, build_optimizer
from train.step.program import abstract_batch
from train.step.sharding import make_mesh, tracing_on
from train.step.state import abstract_state, init_state
from train.step.train_step import make_train_step
from train.tasks import task_of

Variant = Literal["stacked", "rolled", "dicts"]
"""Layers stacked and unrolled, as we train; stacked in a loop; a dict for every layer."""

T = TypeVar("T")


@dataclass(frozen=True)
class Phases:
    """Seconds, in their order."""

    trace: float
    lower: float
    compile: float
    initialize: float
    """Compilation of the initial state included."""
    first_step: float

    @property
    def program(self) -> float:
        """All of the train step's compilation."""
        return self.trace + self.lower + self.compile

    @property
    def total(self) -> float:
        """From the first line to the end of the first step; imports are not counted."""
        return self.program + self.initialize + self.first_step


def config_of(layers: int) -> RunConfig:
    """A narrow model: what it takes to compile depends on the operations, hardly on their sizes."""
    model = models.TransformerConfig(
        vocab_size=256, context=64, layers=layers, d_model=64, heads=4, d_ff=176, dtype="float32"
    )
    return RunConfig(model=model, batch_size=4, context=64, mesh=MeshConfig(data=1))


def start(device: outcome.Device, variant: Variant, layers: int, cache: Path) -> Phases:
    """Makes the first step; what is compiled comes from the cache or goes into it."""
    outcome.run_on(device)
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    config = config_of(layers)
    optimizer = build_optimizer(config.optimizer, config.schedule, config.steps)
    if variant == "dicts":
        return _phases(*_dicts(config, optimizer), config)
    unroll = 1 if variant == "rolled" else None
    model = dataclasses.replace(config.model, scan_unroll=unroll)
    return _phases(*_stacked(dataclasses.replace(config, model=model), optimizer), config)


def _stacked(config: RunConfig, optimizer: Optimizer) -> tuple[Any, ...]:
    mesh, tx = make_mesh(config.mesh, jax.devices()[:1]), optimizer.transformation
    task = task_of(config)
    target = abstract_state(task, tx, mesh)
    batch = abstract_batch(task, mesh, config.batch_size)
    step = jax.jit(make_train_step(task, optimizer), donate_argnums=0)

    def trace() -> Any:
        with tracing_on(mesh):
            return step.trace(target, batch)

    return trace, lambda: (init_state(task, tx, mesh, seed=0),)


def _dicts(config: RunConfig, optimizer: Optimizer) -> tuple[Any, ...]:
    tx = optimizer.transformation

    def initial() -> Any:
        params = unrolled.init(config.model, jax.random.key(0))
        return params, tx.init(params)

    step = jax.jit(unrolled.train_step(config.model, tx), donate_argnums=(0, 1))
    batch = train_programs.random_batch(config)
    return lambda: step.trace(*jax.eval_shape(initial), batch), jax.jit(initial)


def _phases(trace: Callable[[], Any], initial: Callable[[], Any], config: RunConfig) -> Phases:
    batch = train_programs.random_batch(config)
    traced, tracing = _timed(trace)
    lowered, lowering = _timed(traced.lower)
    compiled, compiling = _timed(lowered.compile)
    state, initializing = _timed(lambda: jax.block_until_ready(initial()))
    _, stepping = _timed(lambda: jax.block_until_ready(compiled(*state, batch)))
    return Phases(tracing, lowering, compiling, initializing, stepping)


def _timed(function: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start
