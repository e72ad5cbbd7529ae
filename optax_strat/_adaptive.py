r"""Multipliers that follow the gradients.

"We dynamically adjust rates based on gradient statistics" (Aardvark, section 2), and "Fixed scaling
factors rather than learned/adaptive values" among its limitations (section 5). The rule here is

.. math::
    \alpha_l = \left( \frac{\mathrm{EMA}\,\|g_l\|}{\mathrm{EMA}\,\|g_{embedding}\|} \right)^{2/3},

bounded. At the norms of the paper's Table 2 (0.47, 0.82, 0.65, 1.12) it gives 1.00, 1.45, 1.24 and
1.78, which is equation 1 (1.0, 1.5, 1.2, 1.8) within 4 %: a rule behind the printed numbers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optax_strat import _layer_types, _layout, _norms, _references
from optax_strat._layer_types import LayerType

EXPONENT = 2 / 3
"""The power that takes Table 2's ratios of norms to equation 1's multipliers."""

ADAPTED = (LayerType.embedding, LayerType.attention, LayerType.mlp, LayerType.head)
"""The types of equation 1. Norms, biases and the unnamed keep 1."""


class AdaptLayerTypesState(NamedTuple):
    """State of ``scaling='adaptive'`` in :func:`aardvark`.

    Its vectors have one entry for each of embedding, attention, mlp and head.
    """

    count: jax.Array  # type: ignore[assignment]
    """Steps, int32 of shape ()."""
    norms: jax.Array
    """Bias-corrected moving averages of the types' gradient norms, float32 of shape (4,)."""
    multipliers: jax.Array
    """α_l, float32 of shape (4,)."""
    inner_state: Any


def adaptive_multipliers(norms: jax.Array, bounds: tuple[Any, Any] | None) -> jax.Array:
    """The multipliers that gradient norms of shape (4,) ask for, with the embedding's first."""
    ratio = jnp.where(norms > 0, norms / jnp.where(norms[0] > 0, norms[0], 1.0), 1.0)
    multipliers = jnp.where(norms[0] > 0, ratio, 1.0) ** EXPONENT
    return multipliers if bounds is None else jnp.clip(multipliers, *bounds)


def adapt_layer_types(
    inner: optax.GradientTransformation,
    *,
    decay: Any,
    bounds: tuple[Any, Any] | None,
    layer_types: _layer_types.LayerTypes,
    unmatched: _layer_types.Unmatched,
    stacked: _layout.Stacked,
) -> optax.GradientTransformationExtraArgs:
    """Multiplies what ``inner`` makes of the gradients by multipliers measured on the gradients."""
    inner = optax.with_extra_args_support(inner)
    label = _layer_types.labeler(layer_types, unmatched)

    def init(params: Any) -> AdaptLayerTypesState:
        present = set(jax.tree.leaves(label(params)))
        if present & {*ADAPTED} and LayerType.embedding not in present:
            raise ValueError(
                "scaling='adaptive' measures gradients against the embedding's, but no parameter "
                "is an embedding; add a rule for it to layer_types, or use scaling='fixed'."
            )
        return AdaptLayerTypesState(
            count=jnp.zeros([], jnp.int32),
            norms=jnp.zeros((len(ADAPTED),), jnp.float32),
            multipliers=jnp.ones((len(ADAPTED),), jnp.float32),
            inner_state=inner.init(params),
        )

    def update(
        updates: Any, state: AdaptLayerTypesState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, AdaptLayerTypesState]:
        labels = label(updates)
        count = optax.safe_increment(state.count)
        measured = _norms.mean_norms(updates, labels, stacked)
        now = jnp.stack([jnp.asarray(measured.get(kind, 0.0), jnp.float32) for kind in ADAPTED])
        norms = _references.update_reference("ema", state.norms, now, count, decay)
        multipliers = adaptive_multipliers(norms, bounds).astype(jnp.float32)
        directions, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        position = {str(kind): index for index, kind in enumerate(ADAPTED)}
        leaves, treedef = jax.tree.flatten(directions)
        scaled = [
            u * multipliers[position[kind]].astype(u.dtype) if kind in position else u
            for u, kind in zip(leaves, jax.tree.leaves(labels), strict=True)
        ]
        return jax.tree.unflatten(treedef, scaled), AdaptLayerTypesState(
            count, norms, multipliers, inner_state
        )

    return optax.GradientTransformationExtraArgs(init, update)
