"""A population made ready to run: its devices, its numbers and its compiled steps.

Members share nothing but the program, so each lies on one device, and where there are several
devices the members are dealt out to them. Those of one device are computed side by side by
`jax.vmap`, which keeps a GPU busy with models that are too small for it. A CPU computes them one
after the other, in a loop: its caches hold the activations of one small model, but not of many, and
the guard's branch stays one where side by side both of its sides are computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from train.config.run import RunConfig
from train.host.allocator import keep_freed_memory
from train.run.population.members import check_together, differing_numbers, with_numbers
from train.step.optimizer import Optimizer, build_optimizer
from train.step.program import peak_bytes
from train.step.state import TrainState, state_bytes_per_parameter
from train.step.train_step import Metrics, make_eval_step, make_train_step
from train.tasks.task import Batch, Task

MEMBERS = Spec("members")
"""A leading dim of members, dealt out to the devices."""

SHARED = Spec()
"""Read by all members: batches, the step."""

STATE: Any = TrainState(step=SHARED, params=MEMBERS, opt_state=MEMBERS)  # type: ignore[arg-type]

Numbers = dict[str, Array]
"""By name, each with a leading dim of members, or a single member's."""


class Steps:
    """Each method gives a function that is jitted and not yet compiled.

    Args:
      config: One of the members.
      task: What they train.
      mesh: Its one axis is `members`.
      side_by_side: Whether a device computes its members at once; None means on all but CPUs.
    """

    def __init__(
        self, config: RunConfig, task: Task, mesh: Mesh, side_by_side: bool | None = None
    ) -> None:
        self._config, self._task, self._mesh = config, task, mesh
        if side_by_side is None:
            side_by_side = mesh.devices.flat[0].platform != "cpu"
        self._every = jax.vmap if side_by_side else _one_after_the_other

    def init(self) -> jax.stages.Wrapped:
        """`(numbers, keys) -> state`."""

        def one(_: Any, member: tuple[Numbers, Array]) -> tuple[Any, tuple[Any, Any]]:
            numbers, key = member
            params = self._task.init(key)
            return None, (params, self._optimizer(numbers).transformation.init(params))

        def init(numbers: Numbers, keys: Array) -> TrainState:
            _, (params, opt_state) = self._every(one)(None, (numbers, keys))
            return TrainState(jnp.zeros((), jnp.int32), params, opt_state)

        return self._jit(init, (MEMBERS, MEMBERS), STATE)

    def train(self) -> jax.stages.Wrapped:
        """`(state, numbers, seed_index, batches) -> (state, metrics)`; the state is donated.

        The batches have a leading dim of seeds, and `seed_index` says which one a member reads.
        """
        config, task = self._config, self._task

        def train(
            state: TrainState, numbers: Numbers, seed_index: Array, batches: Batch
        ) -> tuple[TrainState, Metrics]:
            def one(
                own: tuple[Any, Any], member: tuple[Numbers, Array]
            ) -> tuple[tuple[Any, Any], Metrics]:
                numbers, seed = member
                optimizer = self._optimizer(numbers)
                step = make_train_step(task, optimizer, accumulate=config.accumulate)
                batch = jax.tree.map(lambda rows: rows[seed], batches)
                after, metrics = step(TrainState(state.step, *own), batch)
                return (after.params, after.opt_state), metrics

            states = (state.params, state.opt_state)
            states, metrics = self._every(one)(states, (numbers, seed_index))
            return TrainState(state.step + 1, *states), metrics

        arguments = (STATE, MEMBERS, MEMBERS, SHARED)
        return self._jit(train, arguments, (STATE, MEMBERS), donate_argnums=0)

    def evaluate(self) -> jax.stages.Wrapped:
        """`(params, batch) -> (sums of losses, of weights)`, each of shape (members,)."""
        step = make_eval_step(self._task)

        def evaluate(params: Any, batch: Batch) -> tuple[Array, Array]:
            return self._every(lambda _, params: (None, step(params, batch)))(None, params)[1]

        return self._jit(evaluate, (MEMBERS, SHARED), MEMBERS)

    def _optimizer(self, numbers: Numbers) -> Optimizer:
        optimizer = with_numbers(self._config.optimizer, numbers)
        return build_optimizer(optimizer, self._config.schedule, self._config.steps)

    def _jit(self, function: Callable[..., Any], ins: Any, outs: Any, **options: Any) -> Any:
        # By hand, so that each device surely computes its own members and nothing is exchanged.
        local = jax.shard_map(
            function, mesh=self._mesh, in_specs=ins, out_specs=outs, check_vma=False
        )
        return jax.jit(local, **options)


def _one_after_the_other(one: Callable[[Any, Any], tuple[Any, Any]]) -> Callable[..., Any]:
    """`jax.vmap` of a function of a member's state, which it changes, and of what else is given.

    The stacked states are carried, so that XLA can change them in place: `jax.lax.map` would write
    them into new memory, and copy that to where they were donated from.
    """

    def every(states: Any, given: Any) -> tuple[Any, Any]:
        def turn(states: Any, numbered: tuple[Array, Any]) -> tuple[Any, Any]:
            position, given = numbered
            own = jax.tree.map(
                lambda stack: jax.lax.dynamic_index_in_dim(stack, position, keepdims=False), states
            )
            own, result = one(own, given)
            states = jax.tree.map(
                lambda stack, new: jax.lax.dynamic_update_index_in_dim(stack, new, position, 0),
                states,
                own,
            )
            return states, result

        members = jax.tree.leaves(given)[0].shape[0]
        return jax.lax.scan(turn, states, (jnp.arange(members), given))

    return every


@dataclass(frozen=True)
class PopulationProgram:
    """Compiled for the members of one population, P in number."""

    configs: tuple[RunConfig, ...]
    mesh: Mesh
    """Its one axis is `members`."""
    seeds: tuple[int, ...]
    """The distinct ones: members of a seed read the same batches."""
    target: TrainState
    """The state's shapes, dtypes and shardings: all but the step have a leading dim of P."""
    compile_seconds: float
    """Tracing and compiling the train step."""
    _numbers: Numbers
    _seed_index: Array
    _keys: Array
    _init: jax.stages.Compiled
    _train_step: jax.stages.Compiled
    _eval_step: jax.stages.Compiled

    def init(self) -> TrainState:
        """The state before the first step, every member's by its own seed."""
        return self._init(self._numbers, self._keys)

    def train_step(self, state: TrainState, batches: Sequence[Batch]) -> tuple[TrainState, Metrics]:
        """One step of every member; the old state is donated and must not be used again.

        Args:
          state: All members'.
          batches: One for each of `seeds`.

        Returns:
          The state, and the metrics with a leading dim of P.
        """
        stacked = jax.tree.map(lambda *rows: np.stack(rows), *batches)
        placed = _place(self.mesh, SHARED, stacked)
        return self._train_step(state, self._numbers, self._seed_index, placed)

    def evaluate(self, params: Any, batches: Iterable[Batch]) -> np.ndarray:
        """Every member's mean loss over the batches, in the task's unit, of shape (P,)."""
        sums = [self._eval_step(params, _place(self.mesh, SHARED, batch)) for batch in batches]
        total, weight = np.asarray(jax.device_get(sums), np.float64).sum(axis=0)
        return total / weight

    def metrics_of(self, member: int, metrics: Metrics) -> Metrics:
        """A member's part of the metrics, on the host."""
        return jax.tree.map(lambda values: values[member], jax.device_get(metrics))

    def state_bytes_per_parameter(self) -> float:
        """Bytes of optimizer state for each parameter."""
        return state_bytes_per_parameter(self.target)

    def peak_bytes(self) -> int:
        """A member's share of the device memory that the compiled train step needs."""
        return peak_bytes(self._train_step) * self.mesh.size // len(self.configs)


def build_population(
    configs: Sequence[RunConfig], task: Task, *, side_by_side: bool | None = None
) -> PopulationProgram:
    """Compiles the steps of runs that train together.

    Args:
      configs: The members.
      task: What they train.
      side_by_side: As for `Steps`.

    Raises:
      ValueError: If the runs cannot share a program, if one of them could not train alone, or if
        they are to be split over devices.
    """
    check_together(configs)
    keep_freed_memory()
    first, mesh = configs[0], _make_mesh(configs)
    seeds = tuple(dict.fromkeys(config.seed for config in configs))
    numbers, seed_index, keys = _place(
        mesh,
        MEMBERS,
        (
            differing_numbers([config.optimizer for config in configs]),
            np.array([seeds.index(config.seed) for config in configs], np.int32),
            jnp.stack([jax.random.key(config.seed) for config in configs]),
        ),
    )
    steps = Steps(first, task, mesh, side_by_side)
    init = steps.init().lower(numbers, keys).compile()
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        init.out_info,
        init.output_shardings,
    )
    batch, batches = _abstract_batch(task, mesh), _abstract_batch(task, mesh, len(seeds))
    start = time.perf_counter()
    train_step = steps.train().lower(target, numbers, seed_index, batches).compile()
    seconds = time.perf_counter() - start
    return PopulationProgram(
        configs=tuple(configs),
        mesh=mesh,
        seeds=seeds,
        target=target,
        compile_seconds=seconds,
        _numbers=numbers,
        _seed_index=seed_index,
        _keys=keys,
        _init=init,
        _train_step=train_step,
        _eval_step=steps.evaluate().lower(target.params, batch).compile(),
    )


def _make_mesh(configs: Sequence[RunConfig]) -> Mesh:
    """As many devices as can have equal numbers of members.

    Raises:
      ValueError: If the runs are to be split over devices.
    """
    asked = configs[0].mesh
    if (asked.data or 1, asked.fsdp, asked.tensor) != (1, 1, 1):
        raise ValueError(
            f"mesh data={asked.data} x fsdp={asked.fsdp} x tensor={asked.tensor} splits a run, and "
            "a member of a population lies on one device whole: leave --mesh out, or train these "
            "runs one by one."
        )
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if len(configs) % n == 0)
    return jax.make_mesh(
        (count,), ("members",), axis_types=(AxisType.Auto,), devices=devices[:count]
    )


def _place(mesh: Mesh, spec: Spec, tree: Any) -> Any:
    return jax.device_put(tree, NamedSharding(mesh, spec))


def _abstract_batch(task: Task, mesh: Mesh, *leading: int) -> Batch:
    sharding = NamedSharding(mesh, SHARED)
    return jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(
            (*leading, *array.shape), array.dtype, sharding=sharding
        ),
        task.batch,
    )
