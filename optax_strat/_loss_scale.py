"""Loss scaling for float16, whose smallest numbers many gradients would fall below.

The loss is multiplied by a large number, so that its gradients fit, and the gradients are divided
by it again in float32. A number that is too large shows as gradients that are not finite: the guard
skips such a step, and the number is lowered.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_strat import _checks, _guard
from optax_strat._layers import Layers, LayersLike
from optax_strat._meshes import AxisName


class DynamicLossScaleState(NamedTuple):
    """State of :func:`dynamic_loss_scale`."""

    scale: jax.Array
    """What the next loss has to be multiplied by, float32 of shape ()."""
    good_steps: jax.Array
    """Steps taken since the scale last changed, int32 of shape ()."""
    skipped_at_minimum: jax.Array
    """Steps skipped in a row although the scale was at its lowest, int32 of shape ()."""
    inner_state: _guard.SkipNonfiniteState


def dynamic_loss_scale(
    inner: optax.GradientTransformation,
    initial: ArrayLike = 2.0**15,
    *,
    factor: ArrayLike = 2.0,
    growth_interval: ArrayLike = 2000,
    minimum: ArrayLike = 1.0,
    maximum: ArrayLike = 2.0**24,
    max_consecutive: ArrayLike = 10,
    layers: LayersLike = Layers(),
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Divides gradients by the loss scale, and finds the scale that float16 can bear.

    Multiply the loss by :func:`loss_scale` before it is differentiated. A step whose gradients are
    not finite is skipped as by :func:`skip_nonfinite`, with parameters, moments and counts the same
    to the last bit, and the scale is divided by ``factor``. After ``growth_interval`` steps without
    such a one it is multiplied by ``factor``. With ``minimum = maximum = initial`` it stays.

    Everything inside sees gradients and parameters in at least float32, and so the moments of
    float16 parameters are float32 too: unscaled, a small gradient is zero in float16. Updates come
    back in the dtype of the gradients.

    Skipped steps are how the scale is found, so :func:`raise_if_stuck` counts only those that were
    skipped at the lowest scale, where no overflow is to blame.

    Put it around everything else: :func:`record_statistics` outside would see scaled gradients,
    and a guard outside would take back each lowering of the scale.

    Args:
      inner: a complete optimizer. One with a guard of its own, such as :func:`aardvark`, costs no
        more memory traffic than without loss scaling.
      initial: the first scale, best a power of two.
      factor: what the scale is multiplied or divided by, above 1, best a power of two.
      growth_interval: the number of steps after which the scale grows.
      minimum: the lowest scale, above 0.
      maximum: the highest scale.
      max_consecutive: the number of steps skipped in a row at the lowest scale that
        :func:`raise_if_stuck` refuses.
      layers: as in :func:`skip_nonfinite`.
      axis_name: as in :func:`skip_nonfinite`.

    Returns:
      The transformation; its state is a :class:`DynamicLossScaleState`.

    Raises:
      ValueError: a number lies outside its range, or ``initial`` outside the bounds.

    Examples:
      A loss whose gradient, 2, is at first scaled beyond float16's largest number, 65504:

      >>> import jax, jax.numpy as jnp, optax
      >>> from optax_strat import dynamic_loss_scale, loss_scale
      >>> tx = dynamic_loss_scale(optax.sgd(0.25), initial=2.0**16)
      >>> params = jnp.array([1.0], jnp.float16)
      >>> state = tx.init(params)
      >>> for _ in range(4):
      ...     scale = loss_scale(state)
      ...     loss = lambda params: jnp.sum(params**2) * scale
      ...     updates, state = tx.update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     print(int(scale), params[0])
      65536 1.0
      32768 1.0
      16384 0.5
      16384 0.25

    References:
      Micikevicius et al., `Mixed Precision Training <https://arxiv.org/abs/1710.03740>`_, 2017
    """
    _check(initial, factor, growth_interval, minimum, maximum)
    guarded = _guard.skip_nonfinite(inner, max_consecutive, layers=layers, axis_name=axis_name)

    def init(params: Any) -> DynamicLossScaleState:
        return DynamicLossScaleState(
            scale=jnp.asarray(initial, jnp.float32),
            good_steps=jnp.zeros([], jnp.int32),
            skipped_at_minimum=jnp.zeros([], jnp.int32),
            inner_state=guarded.init(_widened(params)),
        )

    def update(
        updates: Any, state: DynamicLossScaleState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, DynamicLossScaleState]:
        scale = state.scale
        unscaled = jax.tree.map(lambda g: g * (1 / scale), _widened(updates))
        directions, inner_state = guarded.update(
            unscaled, state.inner_state, _widened(params), **extra_args
        )
        good = inner_state.consecutive == 0
        good_steps = jnp.where(good, optax.safe_increment(state.good_steps), 0)
        grows = good_steps >= growth_interval
        raised = jnp.where(grows, jnp.minimum(scale * factor, maximum), scale)
        lowered = jnp.maximum(scale / factor, minimum)
        helpless = ~good & (scale <= minimum)
        return (
            jax.tree.map(lambda u, g: u.astype(jnp.result_type(g)), directions, updates),
            DynamicLossScaleState(
                scale=jnp.where(good, raised, lowered).astype(jnp.float32),
                good_steps=jnp.where(grows, 0, good_steps),
                skipped_at_minimum=jnp.where(
                    helpless, optax.safe_increment(state.skipped_at_minimum), 0
                ),
                inner_state=inner_state,
            ),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _check(initial: Any, factor: Any, growth_interval: Any, minimum: Any, maximum: Any) -> None:
    _checks.check_positive("initial", initial)
    _checks.check_count("growth_interval", growth_interval)
    _checks.check_positive("minimum", minimum)
    _checks.check_positive("maximum", maximum)
    _checks.check_positive("factor", factor)
    if _checks.is_number(factor) and factor <= 1:
        raise ValueError(f"factor must be above 1, but it is {factor!r}.")
    numbers = (minimum, initial, maximum)
    if all(map(_checks.is_number, numbers)) and not minimum <= initial <= maximum:
        raise ValueError(
            f"initial must lie between minimum and maximum, but it is {initial!r}, and they are "
            f"{minimum!r} and {maximum!r}."
        )


def _widened(tree: Any) -> Any:
    """The tree in at least float32; shapes stay shapes."""

    def widen(x: Any) -> Any:
        dtype = jnp.promote_types(jnp.result_type(x), jnp.float32)
        if isinstance(x, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding)
        return jnp.asarray(x, dtype)

    return jax.tree.map(widen, tree)
