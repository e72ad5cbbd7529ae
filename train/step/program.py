"""A configuration made ready to run: mesh, optimizer and compiled steps, and what they cost.

Seeds share a program, since a seed is data to it: comparing methods over seeds compiles each once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from train.config.run import RunConfig
from train.data import Batch
from train.host.allocator import keep_freed_memory
from train.host.compiling import CompileTime
from train.optimizers.build import Optimizer, build_optimizer
from train.step.accumulation import check_micro_batches
from train.step.sharding import batch_sharding, make_mesh, tracing_on
from train.step.state import TrainState, abstract_state, init_state, state_bytes
from train.step.train_step import Metrics, make_eval_step, make_train_step


@dataclass(frozen=True)
class Program:
    """Compiled for one model, batch shape, optimizer and mesh."""

    config: RunConfig
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
        return init_state(self.config.model, self.optimizer.transformation, self.mesh, seed)

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One step; the old state is donated and must not be used again."""
        return self._train_step(state, self.place(batch))

    def evaluate(self, params: Any, batches: Iterable[Batch]) -> float:
        """Mean loss over the batches' weighted positions, in nats a token."""
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
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.target.params))
        return state_bytes(self.target.opt_state) / parameters

    def peak_bytes(self) -> int:
        """Device memory that the compiled train step needs: state, batch and temporaries."""
        memory: Any = self._train_step.memory_analysis()
        return (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes
        )

    def compiled_cost(self) -> dict[str, float]:
        """The compiler's own count of the step: `flops` and `bytes accessed`, where it has one."""
        return dict(self._train_step.cost_analysis() or {})


def build_program(config: RunConfig) -> Program:
    """Compiles the steps of a run, ahead of its first batch.

    Raises:
      ValueError: If the mesh does not fit the devices, the batch or the model.
    """
    keep_freed_memory()
    mesh = make_mesh(config.mesh)
    check_micro_batches(config.batch_size, config.accumulate, mesh)
    optimizer = build_optimizer(config.optimizer, config.schedule, config.steps)
    target = abstract_state(config.model, optimizer.transformation, mesh)
    batch = abstract_batch(config, mesh)
    with CompileTime() as spent:
        train_step = _compile_train_step(config, optimizer, mesh, target, batch)
    evaluation = jax.jit(make_eval_step(config.model, loss_chunk=config.loss_chunk))
    with tracing_on(mesh):
        eval_step = evaluation.lower(target.params, batch).compile()
    sharding = batch.inputs_BT.sharding
    return Program(config, mesh, optimizer, target, spent.seconds, sharding, train_step, eval_step)


def compile_ahead(config: RunConfig, mesh: Mesh) -> jax.stages.Compiled:
    """Compiles a run's train step for a mesh whose devices need not be here."""
    optimizer = build_optimizer(config.optimizer, config.schedule, config.steps)
    target = abstract_state(config.model, optimizer.transformation, mesh)
    return _compile_train_step(config, optimizer, mesh, target, abstract_batch(config, mesh))


def _compile_train_step(
    config: RunConfig, optimizer: Optimizer, mesh: Mesh, target: TrainState, batch: Batch
) -> jax.stages.Compiled:
    step = make_train_step(
        config.model, optimizer, accumulate=config.accumulate, loss_chunk=config.loss_chunk
    )
    shardings = (jax.tree.map(lambda leaf: leaf.sharding, target), None)
    with tracing_on(mesh):
        return (
            jax.jit(step, donate_argnums=0, out_shardings=shardings).lower(target, batch).compile()
        )


def abstract_batch(config: RunConfig, mesh: Mesh) -> Batch:
    """Shapes, dtypes and shardings of a run's batches.

    Raises:
      ValueError: If the rows cannot be shared out evenly.
    """
    sharding = batch_sharding(mesh, config.batch_size)
    shape = (config.batch_size, config.context)
    tokens_BT = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)
    weights_BT = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
    segment_ids_BT = tokens_BT if config.data.packing == "documents" else None
    return Batch(tokens_BT, tokens_BT, weights_BT, segment_ids_BT)
