"""A configuration made ready to run: mesh, optimizer and compiled steps, and what they cost.

Seeds share a program, since a seed is data to it: comparing methods over seeds compiles each once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from train.config.run import RunConfig
from train.host.allocator import keep_freed_memory
from train.host.compiling import CompileTime
from train.step.accumulation import check_micro_batches
from train.step.optimizer import Optimizer, build_optimizer
from train.step.sharding import batch_sharding, make_mesh, tracing_on
from train.step.state import TrainState, abstract_state, init_state, state_bytes_per_parameter
from train.step.train_step import Metrics, make_eval_step, make_train_step
from train.tasks.task import Batch, Params, Task


@dataclass(frozen=True)
class Program:
    """Compiled for one task, batch shape, optimizer and mesh."""

    config: RunConfig
    task: Task
    mesh: Mesh
    optimizer: Optimizer
    target: TrainState
    """The state's shapes, dtypes and shardings."""
    compile_seconds: float
    """Tracing and compiling the train step, as `CompileTime` counts."""
    _batch_sharding: NamedSharding
    _train_step: jax.stages.Compiled
    _eval_step: jax.stages.Compiled

    def init(self, seed: int) -> TrainState:
        """The state before the first step."""
        return init_state(self.task, self.optimizer.transformation, self.mesh, seed)

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One step; the old state is donated and must not be used again."""
        return self._train_step(state, self.place(batch))

    def evaluate(self, params: Params, batches: Iterable[Batch]) -> float:
        """Mean loss over the batches, by their weights, in the task's unit."""
        sums = [self._eval_step(params, self.place(batch)) for batch in batches]
        total, weight = np.asarray(jax.device_get(sums), np.float64).sum(axis=0)
        return float(total / weight)

    def place(self, batch: Batch) -> Batch:
        """Puts this process's rows of a batch on its devices."""
        if jax.process_count() == 1:  # The same in two thirds of the time.
            return jax.device_put(batch, self._batch_sharding)
        return jax.tree.map(
            lambda rows: jax.make_array_from_process_local_data(self._batch_sharding, rows), batch
        )

    def state_bytes_per_parameter(self) -> float:
        """Bytes of optimizer state for each parameter, over all devices."""
        return state_bytes_per_parameter(self.target)

    def peak_bytes(self) -> int:
        """Device memory that the compiled train step needs: state, batch and temporaries."""
        return peak_bytes(self._train_step)

    def compiled_cost(self) -> dict[str, float]:
        """The compiler's own count of the step: `flops` and `bytes accessed`, where it has one."""
        return dict(self._train_step.cost_analysis() or {})


def build_program(config: RunConfig, task: Task) -> Program:
    """Compiles the steps of a run, ahead of its first batch.

    Args:
      config: The run.
      task: What it trains.

    Raises:
      ValueError: If the mesh does not fit the devices, the batch or the model.
    """
    keep_freed_memory()
    mesh = make_mesh(config.mesh)
    check_micro_batches(config.batch_size, config.accumulate, mesh)
    optimizer = build_optimizer(config.optimizer, config.schedule, config.steps)
    target = abstract_state(task, optimizer.transformation, mesh)
    batch = abstract_batch(task, mesh, config.batch_size)
    with CompileTime() as spent:
        train_step = _compile_train_step(config, task, optimizer, mesh, target, batch)
    with tracing_on(mesh):
        eval_step = jax.jit(make_eval_step(task)).lower(target.params, batch).compile()
    return Program(
        config,
        task,
        mesh,
        optimizer,
        target,
        spent.seconds,
        batch_sharding(mesh, config.batch_size),
        train_step,
        eval_step,
    )


def compile_ahead(config: RunConfig, task: Task, mesh: Mesh) -> jax.stages.Compiled:
    """Compiles a run's train step for a mesh whose devices need not be here."""
    optimizer = build_optimizer(config.optimizer, config.schedule, config.steps)
    target = abstract_state(task, optimizer.transformation, mesh)
    batch = abstract_batch(task, mesh, config.batch_size)
    return _compile_train_step(config, task, optimizer, mesh, target, batch)


def _compile_train_step(
    config: RunConfig,
    task: Task,
    optimizer: Optimizer,
    mesh: Mesh,
    target: TrainState,
    batch: Batch,
) -> jax.stages.Compiled:
    step = make_train_step(task, optimizer, accumulate=config.accumulate)
    shardings = (jax.tree.map(lambda leaf: leaf.sharding, target), None)
    with tracing_on(mesh):
        return (
            jax.jit(step, donate_argnums=0, out_shardings=shardings).lower(target, batch).compile()
        )


def peak_bytes(compiled: jax.stages.Compiled) -> int:
    """Device memory that a compiled function needs: arguments, results and temporaries."""
    memory: Any = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


def abstract_batch(task: Task, mesh: Mesh, rows: int) -> Batch:
    """Shapes, dtypes and shardings of a task's batches.

    Raises:
      ValueError: If the rows cannot be shared out evenly.
    """
    sharding = batch_sharding(mesh, rows)
    return jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding), task.batch
    )
