"""Gradients that are not finite: skip such a step whole, or set the bad entries to zero.

"We modify the standard AdamW update to include gradient clipping and numerical stability checks"
(Aardvark, 4.2). Skipping is one decision for the whole step, made on the global norm, so that every
shard of every parameter takes it alike. Either way such steps are counted.
"""

from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_strat import _checks, _meshes, _sums
from optax_strat._layers import Layers, LayersLike, as_layers
from optax_strat._meshes import AxisName

Nonfinite: TypeAlias = Literal["skip", "nan_to_num"] | None
"""Skip such steps, set such entries to zero, or do not look."""

Check: TypeAlias = Literal["gradients", "updates"]
"""What has to be finite: the gradients, or what is made of them too."""


class SkipNonfiniteState(NamedTuple):
    """State of :func:`skip_nonfinite`."""

    total: jax.Array
    """Steps skipped so far, int32 of shape ()."""
    consecutive: jax.Array
    """Steps skipped since the last good one, int32 of shape ()."""
    max_consecutive: jax.Array
    """From how many in a row on :func:`raise_if_stuck` raises, int32 of shape ()."""
    inner_state: Any


class KeepsState(optax.GradientTransformationExtraArgs):
    """An optimizer that takes the guard's decision as the extra argument ``accept``.

    Where it is false, the states of the types with ``kept_by_accept`` stay as they were. They are
    kept where they are written, which costs no memory traffic; a guard around any other optimizer
    has to select between the state before and after.
    """


def skip_nonfinite(
    inner: optax.GradientTransformation,
    max_consecutive: ArrayLike = 10,
    *,
    check: Check = "gradients",
    layers: LayersLike = Layers(),
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Skips every step whose gradients are not finite.

    On such a step the updates are zero and the state of ``inner`` (moments, counts, schedules)
    stays the same to the last bit; only the counters here move. Wrap the *whole* optimizer: what
    stands outside in a chain still runs, and would go on counting.

    Unlike ``optax.apply_if_finite`` it never gives up and applies such an update. Steps go on being
    skipped, and :func:`raise_if_stuck`, called from the host where the loop reads its metrics
    anyway, turns ``max_consecutive`` of them in a row into an error.

    A gradient is finite if the float32 norm of all of it is: neither NaN, nor infinite, nor so
    large that its square overflows. For float16 see :func:`dynamic_loss_scale`, which has a guard.

    Wrap ``optax.MultiSteps`` too: then a bad part is left out of the mean. Inside it, a NaN is
    never applied either, but stays in its sum, and all steps from there on are skipped.

    Args:
      inner: any transformation, usually a complete optimizer.
      max_consecutive: the number of skipped steps in a row that :func:`raise_if_stuck` refuses.
      check: ``'gradients'``, or ``'updates'`` to skip a step too whose gradients are finite and
        whose updates are not, by the same measure: a schedule that divides by zero, a moment that
        overflows. The updates are read once more, and a state that would else be kept where it is
        written is selected instead.
      layers: how layers are found, where ``inner`` was told so too: the norms are then computed
        once for both.
      axis_name: for ``jax.shard_map`` with ``check_vma=False``, where every device would decide for
        itself; see :func:`clip_by_layer_norm`.

    Returns:
      The transformation; its state is a :class:`SkipNonfiniteState`.

    Raises:
      ValueError: ``max_consecutive`` is not above zero, or ``check`` is unknown; at ``init``, a
        parameter is no array of numbers.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from optax_strat import skip_counts, skip_nonfinite
      >>> tx = skip_nonfinite(optax.adam(0.1))
      >>> params = jnp.array([1.0, 2.0])
      >>> state = tx.init(params)
      >>> updates, state = tx.update(jnp.array([jnp.nan, 1.0]), state, params)
      >>> optax.apply_updates(params, updates)
      Array([1., 2.], dtype=float32)
      >>> skip_counts(state)
      SkipCounts(total=1, consecutive=1)
    """
    _checks.check_count("max_consecutive", max_consecutive)
    _checks.check_choice("check", check, get_args(Check))
    layers = as_layers(layers)
    keeps_state = isinstance(inner, KeepsState)
    checks_updates = check == "updates"
    inner = optax.with_extra_args_support(inner)

    def is_kept(node: Any) -> bool:
        return keeps_state and not checks_updates and getattr(node, "kept_by_accept", False)

    def is_finite(tree: Any) -> jax.Array:
        return jnp.isfinite(_sums.global_norm(tree, layers, axis_name))

    def init(params: Any) -> SkipNonfiniteState:
        _checks.check_arrays(params)
        return SkipNonfiniteState(
            total=jnp.zeros([], jnp.int32),
            consecutive=jnp.zeros([], jnp.int32),
            max_consecutive=jnp.asarray(max_consecutive, jnp.int32),
            inner_state=inner.init(params),
        )

    def update(
        updates: Any,
        state: SkipNonfiniteState,
        params: Any = None,
        *,
        accept: Any = True,
        **extra_args: Any,
    ) -> tuple[Any, SkipNonfiniteState]:
        good = is_finite(updates) & accept
        inner_is_guard = isinstance(state.inner_state, SkipNonfiniteState)
        if inner_is_guard or keeps_state:
            extra_args["accept"] = good

        def attempt() -> tuple[Any, Any]:
            return inner.update(updates, state.inner_state, params, **extra_args)

        def select(directions: Any, new_state: Any) -> tuple[Any, Any]:
            return (
                jax.tree.map(lambda u: jnp.where(good, u, _nothing(u)), directions),
                jax.tree.map(
                    lambda new, old: new if is_kept(new) else jnp.where(good, new, old),
                    new_state,
                    state.inner_state,
                    is_leaf=is_kept,
                ),
            )

        def skip() -> tuple[Any, Any]:
            # In the dtypes of a step that is taken: gradients and the state before may have others.
            like = jax.eval_shape(attempt)
            return jax.tree.map(_cast, (jax.tree.map(_nothing, updates), state.inner_state), like)

        # Selects fuse into the passes that write updates and state. Only on CPUs, where XLA writes
        # each output in a pass of its own, it copies what it has to select from, and AdamW takes
        # three times as long as with a branch.
        if checks_updates:
            directions, inner_state = attempt()
            good &= is_finite(directions)
            directions, inner_state = select(directions, inner_state)
        elif inner_is_guard:
            directions, inner_state = attempt()
        elif keeps_state:
            directions, inner_state = select(*attempt())
        else:
            directions, inner_state = jax.lax.platform_dependent(
                cpu=lambda: jax.lax.cond(good, attempt, skip),
                default=lambda: select(*attempt()),
            )
        bad = ~good & accept
        return directions, SkipNonfiniteState(
            total=jnp.where(bad, optax.safe_increment(state.total), state.total),
            consecutive=jnp.where(
                bad,
                optax.safe_increment(state.consecutive),
                jnp.where(good, 0, state.consecutive),
            ),
            max_consecutive=state.max_consecutive,
            inner_state=inner_state,
        )

    return optax.GradientTransformationExtraArgs(init, update)


class RepairNonfiniteState(NamedTuple):
    """State of :func:`repair_nonfinite`."""

    total: jax.Array
    """Steps whose gradients were repaired so far, int32 of shape ()."""


def repair_nonfinite(*, axis_name: AxisName = None) -> optax.GradientTransformationExtraArgs:
    """Sets every entry of a gradient that is NaN or infinite to zero, and counts such steps.

    ``jax.numpy.nan_to_num`` with all three replacements zero: an infinite entry has no usable size,
    and the largest float in its place would overflow the norms. Put it before everything else.

    Args:
      axis_name: for ``jax.shard_map`` with ``check_vma=False``, where every device would count for
        itself; see :func:`clip_by_layer_norm`.

    Returns:
      The transformation; its state is a :class:`RepairNonfiniteState`.

    Raises:
      ValueError: at ``init``, a parameter is no array of numbers.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_strat import repair_nonfinite
      >>> tx = repair_nonfinite()
      >>> gradient = jnp.array([1.0, jnp.nan, -jnp.inf])
      >>> updates, state = tx.update(gradient, tx.init(gradient))
      >>> updates, int(state.total)
      (Array([1., 0., 0.], dtype=float32), 1)
    """

    def init(params: Any) -> RepairNonfiniteState:
        _checks.check_arrays(params)
        return RepairNonfiniteState(total=jnp.zeros([], jnp.int32))

    def update(
        updates: Any, state: RepairNonfiniteState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, RepairNonfiniteState]:
        del params, extra_args
        leaves = jax.tree.leaves(updates)
        finite = [jnp.all(jnp.isfinite(u)) for u in leaves]
        broken = ~jnp.all(jnp.asarray(finite, bool)) if finite else jnp.asarray(False)
        broken = _meshes.anywhere(broken, axis_name, *leaves)
        repaired = jax.tree.map(lambda u: jnp.where(jnp.isfinite(u), u, jnp.zeros_like(u)), updates)
        total = jnp.where(broken, optax.safe_increment(state.total), state.total)
        return repaired, RepairNonfiniteState(total)

    return optax.GradientTransformationExtraArgs(init, update)


def protect(
    optimizer: optax.GradientTransformationExtraArgs, nonfinite: Nonfinite, layers: Layers
) -> optax.GradientTransformationExtraArgs:
    """An optimizer of ours with the treatment that its ``nonfinite`` argument asks for."""
    _checks.check_choice("nonfinite", nonfinite, ("skip", "nan_to_num", None))
    optimizer = KeepsState(*optimizer)
    match nonfinite:
        case "skip":
            return skip_nonfinite(optimizer, layers=layers)
        case "nan_to_num":
            return optax.chain(repair_nonfinite(), optimizer)
        case None:
            return optimizer


def _nothing(update: jax.Array) -> jax.Array:
    # Minus zero, because adding it changes no parameter; adding zero turns -0.0 into 0.0.
    return _meshes.vary_alike(jnp.full_like(update, -0.0), update)


def _cast(x: Any, like: jax.ShapeDtypeStruct) -> Any:
    x = jnp.asarray(x)
    return _meshes.vary_alike(x if x.dtype == like.dtype else x.astype(like.dtype), like)
