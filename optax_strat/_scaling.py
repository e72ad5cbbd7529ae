r"""Multipliers of updates: one for each layer type, fixed or measured, or one for each leaf.

Aardvark's equation 1 gives each layer type a fixed multiplier (:data:`MULTIPLIERS`). The paper also
says "We dynamically adjust rates based on gradient statistics" (section 2), but lists "Fixed
scaling factors rather than learned/adaptive values" among its limitations (section 5). For
multipliers that follow the gradients (:class:`Adaptive`) the rule here is

.. math::
    \alpha_l = c \left( \frac{\mathrm{EMA}\,\|g_l\|}{\bar g} \right)^{2/3},

where :math:`\bar g` is the geometric mean of the types' averages and the constant :math:`c` makes
the embedding's multiplier 1 at the norms that the paper prints in Table 2 (0.47, 0.82, 0.65, 1.12).
At those norms the rule gives 1.00, 1.45, 1.24 and 1.78, which is equation 1 (1.0, 1.5, 1.2, 1.8)
within 4 %. Dividing by the embedding's norm in place of the mean would give the same there, but one
norm would then decide everything: with embedding gradients a thousand times smaller, every other
type would have the highest multiplier that is allowed.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_strat import _checks, _layers, _layout, _readings, _strata, _sums
from optax_strat._layer_types import LayerType
from optax_strat._layers import Layers, LayersLike, as_layers

Scales: TypeAlias = Mapping[str, ArrayLike | optax.GradientTransformation]

OTHERS = "*"
"""What stands for all types that have no scale of their own."""


class ScaleByLayerTypeState(NamedTuple):
    """State of :func:`scale_by_layer_type`."""

    multipliers: dict[str, jax.Array]
    """What each type in ``scales`` is multiplied by, and ``'*'`` for all others, float32 of shape
    (); 1 where a type has no number or no parameters. As found at ``init``; only
    :func:`record_statistics` renews it."""
    inner_state: Any


def scale_by_layer_type(
    scales: Scales, layers: LayersLike = Layers(), *, normalize: bool = False
) -> optax.GradientTransformationExtraArgs:
    r"""Multiplies the updates of each layer type by a number of its own.

    "The effective learning rate for parameter θ_i in layer l becomes η_i = α_l · η_base" (Aardvark,
    4.1, eq. 2). Through ``optax.partition`` over stateless scales: the moments of the optimizer in
    front stay one set with one step count, and the multipliers, being Python floats, are folded
    into the pass that writes the updates.

    Args:
      scales: a number, or any transformation, for each layer type; types left out are not changed.
      layers: how layer types are found; see :class:`Layers`. Types of your own are as good as ours.
      normalize: divide the numbers by their mean over all parameters, so that the mean learning
        rate is that of the optimizer without them.

    Returns:
      The transformation; its state is a :class:`ScaleByLayerTypeState`.

    Raises:
      ValueError: a layer type is unknown, a number is negative or not finite, or ``normalize``
        meets something that is not a number; at ``init``, a parameter has no layer type, or is no
        floating-point array.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_strat import scale_by_layer_type
      >>> tx = scale_by_layer_type({'attention': 1.5, 'head': 1.8})
      >>> updates = {'attn': jnp.ones(1), 'mlp': jnp.ones(1), 'lm_head': jnp.ones(1)}
      >>> scaled, _ = tx.update(updates, tx.init(updates))
      >>> {name: round(x.item(), 4) for name, x in scaled.items()}
      {'attn': 1.5, 'lm_head': 1.8, 'mlp': 1.0}
    """
    layers = as_layers(layers)
    layers.check_types("scale_by_layer_type", scales)
    scales = {str(layer_type): scale for layer_type, scale in scales.items()}
    for layer_type, scale in scales.items():
        if not isinstance(scale, optax.GradientTransformation):
            _checks.check_not_negative(f"The scale of {layer_type!r}", scale)
        if normalize and not _checks.is_number(scale):
            raise ValueError(f"normalize=True needs numbers, but {layer_type!r} has {scale!r}.")

    def label(tree: Any) -> Any:
        return jax.tree.map(lambda kind: kind if kind in scales else OTHERS, layers.labels(tree))

    def partition(numbers: Scales) -> optax.GradientTransformationExtraArgs:
        transforms = {
            kind: scale if isinstance(scale, optax.GradientTransformation) else scale_by(scale)
            for kind, scale in numbers.items()
        }
        return optax.partition(transforms, label)

    def numbers_for(tree: Any) -> Scales:
        numbers = {OTHERS: 1.0} | scales
        return _normalized(numbers, tree, label(tree)) if normalize else numbers

    def init(params: Any) -> ScaleByLayerTypeState:
        _checks.check_parameters(params)
        _layers.warn_of_unused("scale_by_layer_type", scales, params, layers)
        numbers = numbers_for(params)
        return ScaleByLayerTypeState(
            _multipliers(numbers, label(params)), partition(numbers).init(params)
        )

    def update(
        updates: Any,
        state: ScaleByLayerTypeState,
        params: Any = None,
        *,
        record: bool = False,
        **extra_args: Any,
    ) -> tuple[Any, ScaleByLayerTypeState]:
        numbers = numbers_for(updates)
        scaled, inner_state = partition(numbers).update(
            updates, state.inner_state, params, **extra_args
        )
        # Constants that a program returns cost a copy at every step, so only if somebody records.
        multipliers = _multipliers(numbers, label(updates)) if record else state.multipliers
        return scaled, ScaleByLayerTypeState(multipliers, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _normalized(numbers: Scales, tree: Any, labels: Any) -> Scales:
    """The numbers, divided by their mean over the parameters of a tree."""
    sizes = [math.prod(_layout.shape_of(leaf)) for leaf in jax.tree.leaves(tree)]
    kinds = jax.tree.leaves(labels)
    weighted = sum(numbers[kind] * size for kind, size in zip(kinds, sizes, strict=True))
    mean = weighted / sum(sizes) if weighted else 1.0
    return {kind: number / mean for kind, number in numbers.items()}


def _multipliers(numbers: Scales, labels: Any) -> dict[str, jax.Array]:
    """The number of each type; 1 for those that have none, or nothing to multiply."""
    present = set(jax.tree.leaves(labels))
    return {
        kind: jnp.asarray(
            number
            if kind in present and not isinstance(number, optax.GradientTransformation)
            else 1.0,
            jnp.float32,
        )
        for kind, number in numbers.items()
    }


def scale_by(number: ArrayLike) -> optax.GradientTransformation:
    """``optax.scale``, but numbers of NumPy and JAX do not change the dtype of the updates."""
    if _checks.is_number(number) and number == 1:
        return optax.identity()
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u: times(number, u), updates))


def scale_leaves(
    factors: Callable[[optax.Params], Sequence[ArrayLike]],
) -> optax.GradientTransformationExtraArgs:
    """Multiplies each leaf by a factor of its own, found in the tree, which ``init`` checks too."""

    def init(params: optax.Params) -> optax.EmptyState:
        factors(params)
        return optax.EmptyState()

    def update(
        updates: optax.Updates,
        state: optax.EmptyState,
        params: optax.Params | None = None,
        **extra_args: object,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params, extra_args
        leaves, treedef = jax.tree.flatten(updates)
        scaled = [times(factor, u) for factor, u in zip(factors(updates), leaves, strict=True)]
        return jax.tree.unflatten(treedef, scaled), state

    return optax.GradientTransformationExtraArgs(init, update)


def times(number: ArrayLike, u: jax.Array) -> jax.Array:
    """An update times a number, in the dtype of the update; the number 1 changes nothing."""
    if _checks.is_number(number) and number == 1:
        return u
    return jnp.asarray(number, jnp.result_type(u)) * u


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
        measured = _strata.mean_norms(updates, layers)
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
