r"""Aardvark's multipliers by layer type: equation 1, or multipliers that follow the gradients.

"We dynamically adjust rates based on gradient statistics" (Aardvark, section 2), and "Fixed scaling
factors rather than learned/adaptive values" among its limitations (section 5). The norms that its
Table 2 prints explain its equation 1: with

.. math::
    \alpha_l = c \left( \frac{\mathrm{EMA}\,\|g_l\|}{\bar g} \right)^{2/3},

where :math:`\bar g` is the geometric mean of the types' averages and :math:`c` the one constant
that gives the embedding 1 at Table 2's norms (0.47, 0.82, 0.65, 1.12), it gives 1.00, 1.45, 1.24
and 1.78 there, which is equation 1 (1.0, 1.5, 1.2, 1.8) within 4 %. Measured against the
embedding's norm alone the rule would be the same at Table 2, and at the mercy of one norm
elsewhere: with embedding gradients a thousand times smaller, every other type would have the
highest multiplier that is allowed.
"""

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_strat import _checks, _norms, _readings, _sums
from optax_strat._layer_types import LayerType
from optax_strat._layers import Layers

MULTIPLIERS: dict[str, float] = {
    "embedding": 1.0,
    "attention": 1.5,
    "mlp": 1.2,
    "head": 1.8,
    "norm": 1.0,
    "bias": 1.0,
    "other": 1.0,
}
"""Equation 1 of the Aardvark paper. Norms, biases and unnamed parameters, which it leaves out, have
1, and so have the types of your own rules."""

TABLE_2: dict[str, float] = {"embedding": 0.47, "attention": 0.82, "mlp": 0.65, "head": 1.12}
"""The mean gradient norms by layer type that the Aardvark paper prints."""

EXPONENT = 2 / 3
"""The power that takes Table 2's ratios of norms to equation 1's multipliers."""


@dataclasses.dataclass(frozen=True)
class Adaptive:
    r"""Multipliers that follow the gradients, as ``scaling=`` of :func:`aardvark`.

    .. math::
        \alpha_l = c \left( \frac{\mathrm{EMA}\,\|g_l\|}{\bar g} \right)^{2/3}

    with :math:`\bar g` the geometric mean of the averages of embedding, attention, mlp and head, as
    far as the model has them, and :math:`c` such that the norms of Table 2 give its embedding 1.
    Other types have 1.
    """

    decay: ArrayLike = 0.99
    """Decay of the moving averages of the norms, in [0, 1)."""
    scale_bounds: tuple[ArrayLike, ArrayLike] | None = (0.1, 10.0)
    """The lowest and the highest multiplier, or None."""

    def __post_init__(self) -> None:
        _checks.check_decay("decay", self.decay)
        _checks.check_bounds("scale_bounds", self.scale_bounds)


class AdaptLayerTypesState(NamedTuple):
    """State of ``scaling='adaptive'`` in :func:`aardvark`.

    Its vectors have one entry for each of embedding, attention, mlp and head.
    """

    count: jax.Array  # type: ignore[assignment]
    """Steps, int32 of shape ()."""
    norms: jax.Array
    """Bias-corrected moving averages of the types' gradient norms, float32 of shape (4,)."""
    multipliers: jax.Array
    """α_l, float32 of shape (4,); 1 for a type without parameters, or without gradients so far."""
    inner_state: Any


def adaptive_multipliers(norms: jax.Array, bounds: tuple[ArrayLike, ArrayLike] | None) -> jax.Array:
    """The multipliers that gradient norms of shape (4,) ask for; zero is no norm."""
    printed = jnp.asarray([*TABLE_2.values()], jnp.float32)
    known = norms > 0
    # In logarithms, so that neither norms nor their products can over- or underflow.
    log = jnp.log(jnp.where(known, norms, 1.0))
    mean, mean_printed = (
        jnp.sum(jnp.where(known, x, 0.0)) / jnp.maximum(jnp.sum(known), 1)
        for x in (log, jnp.log(printed))
    )
    constant = mean_printed - math.log(TABLE_2["embedding"])
    multipliers = jnp.where(known, jnp.exp(EXPONENT * (log - mean + constant)), 1.0)
    return multipliers if bounds is None else jnp.clip(multipliers, *bounds)


def adapt_layer_types(
    inner: optax.GradientTransformation, adaptive: Adaptive, layers: Layers
) -> optax.GradientTransformationExtraArgs:
    """Multiplies what ``inner`` makes of the gradients by multipliers measured on the gradients."""
    inner = optax.with_extra_args_support(inner)

    def init(params: Any) -> AdaptLayerTypesState:
        layers.labels(params)  # so that a parameter without a type is refused here
        return AdaptLayerTypesState(
            count=jnp.zeros([], jnp.int32),
            norms=jnp.zeros((len(TABLE_2),), jnp.float32),
            multipliers=jnp.ones((len(TABLE_2),), jnp.float32),
            inner_state=inner.init(params),
        )

    def update(
        updates: Any, state: AdaptLayerTypesState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, AdaptLayerTypesState]:
        count = optax.safe_increment(state.count)
        measured = _norms.mean_norms(updates, layers)
        now = jnp.stack([jnp.asarray(measured.get(kind, 0.0), jnp.float32) for kind in TABLE_2])
        now = jnp.minimum(now, _sums.LARGEST)
        norms = _readings.update_reference("ema", state.norms, now, count, adaptive.decay)
        multipliers = adaptive_multipliers(norms, adaptive.scale_bounds).astype(jnp.float32)
        directions, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        position = {kind: index for index, kind in enumerate(TABLE_2)}
        scaled = jax.tree.map(
            lambda u, kind: (
                u * multipliers[position[kind]].astype(u.dtype) if kind in position else u
            ),
            directions,
            layers.labels(updates),
        )
        return scaled, AdaptLayerTypesState(count, norms, multipliers, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def warn_if_tied(
    scales: optax.GradientTransformationExtraArgs,
    multipliers: Mapping[str, ArrayLike] | None,
    layers: Layers,
) -> optax.GradientTransformationExtraArgs:
    """Warns at ``init`` where the head's multiplier applies to nothing.

    A tied head leaves no trace among the parameters but its absence: there is an embedding and no
    head. Asked for by name, the head's multiplier warns without an embedding too.
    """
    asked = multipliers is not None and LayerType.head in multipliers

    def init(params: Any) -> Any:
        kinds = set(jax.tree.leaves(layers.labels(params)))
        tied = multipliers is None and LayerType.embedding in kinds
        if kinds and LayerType.head not in kinds and (asked or tied):
            warnings.warn(
                "No parameter is an output head, so the head's multiplier applies to nothing. If "
                "the head is tied, the embedding's multiplier applies to it; for the head's, pass "
                "multipliers={'embedding': ...}.",
                stacklevel=2,
            )
        return scales.init(params)

    return optax.GradientTransformationExtraArgs(init, scales.update)
