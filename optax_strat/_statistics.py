"""Norms by layer type, kept in the optimizer's state and free when nobody asks for them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_strat import _layer_types, _layout, _norms, _states


class RecordStatisticsState(NamedTuple):
    """State of :func:`record_statistics`; the vectors are in the order of :class:`LayerType`."""

    gradient_norms: jax.Array
    """Of what the transformation was given, float32 of shape (6,)."""
    update_norms: jax.Array
    """Of what it returned, float32 of shape (6,)."""
    parameter_norms: jax.Array
    """Of the parameters before the step, float32 of shape (6,); zero where none were passed."""
    inner_state: Any


def record_statistics(
    inner: optax.GradientTransformation,
    *,
    layer_types: _layer_types.LayerTypes = None,
    unmatched: _layer_types.Unmatched = "error",
    stacked: _layout.Stacked = None,
) -> optax.GradientTransformationExtraArgs:
    """Keeps the last step's gradient, update and parameter norms by layer type in the state.

    The "layer-specific gradient statistics" of Aardvark's Table 2, without a second program and
    without a transfer until somebody looks: eighteen numbers more in the state.

    Args:
      inner: any transformation, usually a complete optimizer.
      layer_types: rules, or a function from a tree to labels; None means the default rules.
      unmatched: ``'error'`` or ``'other'``; see :func:`layer_types`.
      stacked: which containers hold stacked leaves.

    Returns:
      The transformation; :func:`read_statistics` finds its state, a :class:`RecordStatisticsState`.

    Raises:
      ValueError: at ``update``, a parameter has no layer type.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from optax_strat import read_statistics, record_statistics
      >>> tx = optax.chain(record_statistics(optax.sgd(0.1)), optax.scale(1.0))
      >>> params = {'embed': jnp.array([3.0, 4.0]), 'mlp': jnp.array([1.0])}
      >>> _, state = tx.update(params, tx.init(params), params)
      >>> {kind: round(float(x), 4) for kind, x in read_statistics(state)['update'].items() if x}
      {'embedding': 0.5, 'mlp': 0.1}
    """
    inner = optax.with_extra_args_support(inner)

    def norms(tree: Any) -> jax.Array:
        found = _norms.norms_by_layer_type(
            tree, layer_types=layer_types, unmatched=unmatched, stacked=stacked
        )
        return jnp.stack([found.get(kind.value, jnp.float32(0)) for kind in _layer_types.LayerType])

    def init(params: Any) -> RecordStatisticsState:
        zeros = jnp.zeros((len(_layer_types.LayerType),), jnp.float32)
        return RecordStatisticsState(zeros, zeros, zeros, inner.init(params))

    def update(
        updates: Any, state: RecordStatisticsState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, RecordStatisticsState]:
        outputs, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        return outputs, RecordStatisticsState(
            gradient_norms=norms(updates),
            update_norms=norms(outputs),
            parameter_norms=state.parameter_norms if params is None else norms(params),
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
      of :class:`LayerType`; a type without parameters has zeros.

    Raises:
      ValueError: the state contains none, or several.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from optax_strat import read_statistics, record_statistics
      >>> state = record_statistics(optax.sgd(0.1)).init({'mlp': jnp.ones(2)})
      >>> sorted(read_statistics(state))
      ['gradient', 'parameter', 'update']
    """
    found = _states.find_states(opt_state, RecordStatisticsState)
    if len(found) != 1:
        raise ValueError(
            f"Expected one record_statistics(...) in this optimizer state, but found {len(found)}."
        )

    def name(vector: jax.Array) -> dict[str, jax.Array]:
        return {kind.value: vector[index] for index, kind in enumerate(_layer_types.LayerType)}

    return {
        "gradient": name(found[0].gradient_norms),
        "update": name(found[0].update_norms),
        "parameter": name(found[0].parameter_norms),
    }
