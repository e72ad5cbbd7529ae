"""Learning rates: the schedule that both papers need and neither prints, and reading the rate."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_strat import _checks, _states


class ScaleByLearningRateState(NamedTuple):
    """State of the last link of our optimizers, which multiplies by the learning rate."""

    count: jax.Array  # type: ignore[assignment]
    """Steps of a schedule, int32 of shape (); a constant rate leaves it at 0."""
    learning_rate: jax.Array
    """η_t of the step before, and before the first step its own, float32 of shape ()."""


def scale_by_learning_rate(
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformationExtraArgs:
    """``optax.scale_by_learning_rate``, with the rate in its state for :func:`learning_rate_of`."""
    if not callable(learning_rate):
        _checks.check_not_negative("learning_rate", learning_rate)

    def init(params: optax.Params) -> ScaleByLearningRateState:
        del params
        count = jnp.zeros([], jnp.int32)
        rate = learning_rate(count) if callable(learning_rate) else learning_rate
        return ScaleByLearningRateState(count, jnp.asarray(rate, jnp.float32))

    def update(
        updates: optax.Updates,
        state: ScaleByLearningRateState,
        params: optax.Params | None = None,
        **extra_args: object,
    ) -> tuple[optax.Updates, ScaleByLearningRateState]:
        del params, extra_args
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        scaled = jax.tree.map(lambda u: jnp.asarray(-rate, u.dtype) * u, updates)
        if callable(learning_rate):
            state = state._replace(count=optax.safe_increment(state.count))
        # A constant that a program returns costs a copy at every step.
        if not _checks.is_number(rate):
            state = state._replace(learning_rate=jnp.asarray(rate, jnp.float32))
        return scaled, state

    return optax.GradientTransformationExtraArgs(init, update)


def warmup_cosine(
    peak: float, steps: int, *, warmup_steps: int | None = None, final_fraction: float = 0.1
) -> optax.Schedule:
    """A linear warm-up, then half a cosine: "Warmup schedule for stable initialization".

    StratOpt corrects no bias (section 3.1 of its paper), so its first steps are several times too
    long, and the warm-up (section 3.2) carries it over them.

    Args:
      peak: the highest learning rate, above 0.
      steps: all steps, the warm-up included.
      warmup_steps: steps from zero to the peak; None means a tenth of all, 2000 at most.
      final_fraction: the share of the peak that is left at the end, in [0, 1].

    Returns:
      A schedule from step number to learning rate.

    Raises:
      ValueError: a number lies outside its range, or the warm-up leaves no step to decay.

    Examples:
      >>> from optax_strat import warmup_cosine
      >>> schedule = warmup_cosine(0.01, steps=100)
      >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 55, 100)]
      [0.0, 0.005, 0.01, 0.0055, 0.001]
    """
    _checks.check_positive("peak", peak)
    _checks.check_count("steps", steps)
    _checks.check_not_negative("final_fraction", final_fraction)
    if final_fraction > 1:
        raise ValueError(f"final_fraction must lie in [0, 1], but it is {final_fraction!r}.")
    if warmup_steps is None:
        warmup_steps = min(steps // 10, 2000)
    _checks.check_not_negative("warmup_steps", warmup_steps)
    if warmup_steps >= steps:
        raise ValueError(f"warmup_steps must be below steps = {steps}, but it is {warmup_steps}.")
    return optax.warmup_cosine_decay_schedule(
        0.0, peak, warmup_steps, steps, end_value=final_fraction * peak
    )


def learning_rate_of(opt_state: optax.OptState) -> jax.Array:
    """Reads the learning rate of the last step, wherever it sits in an optimizer's state.

    Before the first step it is the rate that the first step will have. Works inside ``jax.jit``, so
    that a step can return it as a metric.

    Args:
      opt_state: the state of :func:`stratopt`, :func:`aardvark`, of :func:`stratify` with a
        ``learning_rate``, or of any optimizer under ``optax.inject_hyperparams``.

    Returns:
      A float32 scalar.

    Raises:
      ValueError: the state holds no learning rate, or several.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_strat import aardvark, learning_rate_of, warmup_cosine
      >>> tx = aardvark(warmup_cosine(0.01, steps=100))
      >>> params = {'mlp': jnp.ones((2, 2))}
      >>> state = tx.init(params)
      >>> for _ in range(3):
      ...     _, state = tx.update(params, state, params)
      >>> round(float(learning_rate_of(state)), 4)
      0.002
    """
    injected = [
        state.hyperparams["learning_rate"]
        for state in jax.tree.leaves(opt_state, is_leaf=lambda x: hasattr(x, "hyperparams"))
        if "learning_rate" in getattr(state, "hyperparams", ())
    ]
    own = _states.find_states(opt_state, ScaleByLearningRateState)
    # An optimizer of ours that is injected has both, and the injected one is that of the step.
    rates = injected or [state.learning_rate for state in own]
    if len(rates) != 1:
        raise ValueError(
            f"Expected one learning rate in this state, but found {len(rates)}: stratopt, "
            "aardvark, stratify(..., learning_rate=...) and optax.inject_hyperparams keep it."
        )
    return jnp.asarray(rates[0], jnp.float32)
