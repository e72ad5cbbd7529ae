"""Statistics by layer type, kept in the optimizer's state and free when nobody asks for them."""

from collections.abc import Collection
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from optax_strat import (
    _checks,
    _factors,
    _layer_types,
    _layout,
    _norms,
    _scaling,
    _skips,
    _states,
    _strata,
)

Norms = Literal["gradient", "update", "parameter"]
NORMS: tuple[Norms, ...] = get_args(Norms)


class RecordStatisticsState(NamedTuple):
    """State of :func:`record_statistics`; the vectors are in the order of :class:`LayerType`."""

    gradient: jax.Array | None
    """Norms of what the transformation was given, float32 of shape (6,); None if not asked for."""
    update: jax.Array | None
    """Norms of what it returned, likewise."""
    parameter: jax.Array | None
    """Norms of the parameters before the step, likewise; zero where none were passed."""
    alpha: jax.Array | None
    """The mean α over each type's layers, float32 of shape (6,); None where nothing has one."""
    clip_factor: jax.Array | None
    """The mean factor of clipping over each type's layers, likewise."""
    inner_state: Any


def record_statistics(
    inner: optax.GradientTransformation,
    norms: Collection[Norms] = NORMS,
    *,
    layer_types: _layer_types.LayerTypes = None,
    unmatched: _layer_types.Unmatched = "error",
    stacked: _layout.Stacked = None,
    stratum: _strata.Stratum = "layer",
) -> optax.GradientTransformationExtraArgs:
    r"""Keeps the last step's statistics by layer type in the state.

    The "layer-specific gradient statistics" of Aardvark's Table 2, and more, without a second
    program and without a transfer until somebody looks. By layer type they are

    - the norms of gradients, updates and parameters;
    - both papers' α, which the learning rate is multiplied by: the mean over the type's layers of
      :math:`\alpha_t` (StratOpt, 3.1), or the multiplier :math:`\alpha_l` of
      :func:`scale_by_layer_type` and :func:`aardvark`, fixed, normalized or adaptive;
    - the mean factor by which :func:`stratopt` or :func:`aardvark` clipped the layers' gradients.

    The last two are found in the state of ``inner`` by type, wherever they sit in it. They and the
    gradient norms are there anyway in our optimizers, and cost nothing more. The other norms cost a
    read of updates and parameters each, and on CPUs a write of the updates too.

    Around a guard, a skipped step is recorded like any other: a gradient norm that is not finite,
    updates of zero. Inside one, the last good step stays on record.

    Args:
      inner: any transformation, usually a complete optimizer.
      norms: which norms to keep: ``'gradient'``, ``'update'``, ``'parameter'``.
      layer_types: rules, or a function from a tree to labels; None means the default rules.
      unmatched: ``'error'`` or ``'other'``; see :func:`layer_types`.
      stacked: which containers hold stacked leaves, as for the optimizer.
      stratum: what has one α in StratOpt, as for :func:`stratopt`.

    Returns:
      The transformation; :func:`read_statistics` finds its state, a :class:`RecordStatisticsState`.

    Raises:
      ValueError: a name in ``norms`` is unknown; at ``init``, a parameter has no layer type, or
        ``stratum`` and ``stacked`` do not fit the optimizer's state.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from optax_strat import aardvark, read_statistics, record_statistics
      >>> tx = record_statistics(aardvark(0.1, weight_decay=0.0))
      >>> params = {'embed': jnp.array([3.0, 4.0]), 'lm_head': jnp.array([[12.0]])}
      >>> _, state = tx.update(params, tx.init(params), params)
      >>> for name, by_type in read_statistics(state).items():
      ...     print(name, {kind: round(float(x), 4) for kind, x in by_type.items() if x})
      gradient {'embedding': 5.0, 'head': 12.0}
      update {'embedding': 0.1414, 'head': 0.18}
      parameter {'embedding': 5.0, 'head': 12.0}
      alpha {'embedding': 1.0, 'head': 1.8}
      clip_factor {'embedding': 0.0769, 'head': 0.0769}
      skips {}
    """
    for name in norms:
        _checks.check_choice("Each of norms", name, NORMS)
    inner = optax.with_extra_args_support(inner)

    def measure(name: Norms, tree: Any) -> jax.Array | None:
        if name not in norms:
            return None
        found = _norms.norms_by_layer_type(
            tree, layer_types=layer_types, unmatched=unmatched, stacked=stacked
        )
        return jnp.stack([found.get(kind.value, jnp.float32(0)) for kind in _layer_types.LayerType])

    def factors(inner_state: Any, tree: Any) -> tuple[jax.Array | None, jax.Array | None]:
        """The means of α and of the clip factor by type, for a tree like the parameters."""
        layers = _factors.layers(tree, stratum, stacked, layer_types, unmatched)
        alphas, clip_factors = layers.alphas(inner_state), layers.clip_factors(inner_state)
        return layers.mean_by_type(alphas), layers.mean_by_type(clip_factors)

    def init(params: Any) -> RecordStatisticsState:
        inner_state = inner.init(params)
        zeros = {
            name: jnp.zeros((len(_layer_types.LayerType),), jnp.float32) if name in norms else None
            for name in NORMS
        }
        alpha, clip_factor = factors(inner_state, params)
        return RecordStatisticsState(
            **zeros, alpha=alpha, clip_factor=clip_factor, inner_state=inner_state
        )

    def update(
        updates: Any, state: RecordStatisticsState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, RecordStatisticsState]:
        if _states.find_states(state.inner_state, _scaling.ScaleByLayerTypeState):
            extra_args["record"] = True
        outputs, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        alpha, clip_factor = factors(inner_state, updates)
        return outputs, RecordStatisticsState(
            gradient=measure("gradient", updates),
            update=measure("update", outputs),
            parameter=state.parameter if params is None else measure("parameter", params),
            alpha=alpha,
            clip_factor=clip_factor,
            inner_state=inner_state,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def read_statistics(opt_state: Any) -> dict[str, dict[str, jax.Array]]:
    """Reads what :func:`record_statistics` kept, wherever it sits in an optimizer state.

    Works inside ``jax.jit``, so that a step can return it as a metric without a wait.

    Args:
      opt_state: the state of an optimizer that contains :func:`record_statistics`.

    Returns:
      ``{'gradient': {type: norm}, 'update': ..., 'parameter': ...}`` with float32 scalars for all
      of :class:`LayerType`; a type without parameters has zeros. ``'alpha'`` and ``'clip_factor'``
      likewise, and ``'skips'`` with ``'total'`` and ``'consecutive'``, each only where something in
      the optimizer has such a thing: SGD has none of them.

    Raises:
      ValueError: the state contains none, or several.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from optax_strat import read_statistics, record_statistics, skip_nonfinite
      >>> tx = skip_nonfinite(record_statistics(optax.sgd(0.1)))
      >>> list(read_statistics(tx.init({'mlp': jnp.ones(2)})))
      ['gradient', 'update', 'parameter', 'skips']
    """
    found = _states.find_one(opt_state, RecordStatisticsState, "record_statistics")
    statistics = {
        name: {kind.value: vector[index] for index, kind in enumerate(_layer_types.LayerType)}
        for name, vector in found._asdict().items()
        if name != "inner_state" and vector is not None
    }
    counts = _skips.traced_counts(opt_state)
    if counts is not None:
        statistics["skips"] = {"total": counts[0], "consecutive": counts[1]}
    return statistics
