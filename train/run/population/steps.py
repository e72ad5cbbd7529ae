"""The steps of a population as functions of all members' states, to be compiled.

Members share nothing but the program, so each lies on one device, and where there are several
devices the members are dealt out to them. Those of one device are computed side by side by
`jax.vmap`, which keeps a GPU busy with models that are too small for it. A CPU computes them one
after the other, in a loop: its caches hold the activations of one small model, but not of many, and
the guard's branch stays one where side by side both of its sides are computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as Spec

import models
from train.config.run import RunConfig
from train.data import Batch
from train.optimizers.build import Optimizer, build_optimizer
from train.run.population.members import with_numbers
from train.step.state import TrainState
from train.step.train_step import Metrics, make_eval_step, make_train_step

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
      mesh: Its one axis is `members`.
      side_by_side: Whether a device computes its members at once; None means on all but CPUs.
    """

    def __init__(self, config: RunConfig, mesh: Mesh, side_by_side: bool | None = None) -> None:
        self._config, self._mesh = config, mesh
        if side_by_side is None:
            side_by_side = mesh.devices.flat[0].platform != "cpu"
        self._every = jax.vmap if side_by_side else _one_after_the_other

    def init(self) -> jax.stages.Wrapped:
        """`(numbers, keys) -> state`."""

        def one(_: Any, member: tuple[Numbers, Array]) -> tuple[Any, tuple[Any, Any]]:
            numbers, key = member
            params = models.init(self._config.model, key)
            return None, (params, self._optimizer(numbers).transformation.init(params))

        def init(numbers: Numbers, keys: Array) -> TrainState:
            _, (params, opt_state) = self._every(one)(None, (numbers, keys))
            return TrainState(jnp.zeros((), jnp.int32), params, opt_state)

        return self._jit(init, (MEMBERS, MEMBERS), STATE)

    def train(self) -> jax.stages.Wrapped:
        """`(state, numbers, seed_index, batches) -> (state, metrics)`; the state is donated.

        The batches have a leading dim of seeds, and `seed_index` says which one a member reads.
        """
        config = self._config

        def train(
            state: TrainState, numbers: Numbers, seed_index: Array, batches: Batch
        ) -> tuple[TrainState, Metrics]:
            def one(
                own: tuple[Any, Any], member: tuple[Numbers, Array]
            ) -> tuple[tuple[Any, Any], Metrics]:
                numbers, seed = member
                step = make_train_step(
                    config.model,
                    self._optimizer(numbers),
                    accumulate=config.accumulate,
                    loss_chunk=config.loss_chunk,
                )
                batch = jax.tree.map(lambda rows: rows[seed], batches)
                after, metrics = step(TrainState(state.step, *own), batch)
                return (after.params, after.opt_state), metrics

            states = (state.params, state.opt_state)
            states, metrics = self._every(one)(states, (numbers, seed_index))
            return TrainState(state.step + 1, *states), metrics

        arguments = (STATE, MEMBERS, MEMBERS, SHARED)
        return self._jit(train, arguments, (STATE, MEMBERS), donate_argnums=0)

    def evaluate(self) -> jax.stages.Wrapped:
        """`(params, batch) -> (nats, tokens)`, each of shape (members,)."""
        step = make_eval_step(self._config.model, loss_chunk=self._config.loss_chunk)

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
