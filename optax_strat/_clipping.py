"""Clipping by the norm of each layer.

"Gradient clipping based on layer-wise thresholds" (StratOpt, 3.2). A threshold can be one number, a
number for each layer type, a share of the layer's parameters, or (inside StratOpt) a multiple of
the layer's own past norms.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from optax_strat import _checks, _layers, _strata, _sums
from optax_strat._layers import Layers, LayersLike, as_layers
from optax_strat._meshes import AxisName


class ClipToParameters(NamedTuple):
    r"""A layer's gradient norm may be at most ``ratio`` times the norm of its parameters.

    :math:`\|g\| \le r \max(\|\theta\|, \theta_{\min})`: adaptive gradient clipping, here by layer.

    References:
      Brock et al., `High-Performance Large-Scale Image Recognition Without Normalization
      <https://arxiv.org/abs/2102.06171>`_, 2021
    """

    ratio: float = 0.01
    """r, above 0."""
    minimum: float = 1e-3
    """The least parameter norm reckoned with, so that layers that start at zero can leave it."""


class ClipToReference(NamedTuple):
    r"""A layer's gradient norm may be at most ``kappa`` times the reference of the step before.

    :math:`\|g_t\| \le \kappa\, \bar g_{t-1}`, with StratOpt's :math:`\bar g`; the first step, which
    has no step before it, is not clipped.
    """

    kappa: float = 2.0
    """The multiple, above 0."""


Threshold: TypeAlias = ArrayLike | Mapping[str, ArrayLike] | ClipToParameters | None
"""A norm for every layer, a norm for each layer type (types left out are not clipped), a rule, or
None for no clipping."""


def check_threshold(name: str, threshold: Threshold | ClipToReference, layers: Layers) -> None:
    """Raises ValueError where a threshold is not positive, or of no known kind."""
    match threshold:
        case ClipToParameters(ratio=ratio, minimum=minimum):
            _checks.check_positive(f"{name}.ratio", ratio)
            _checks.check_positive(f"{name}.minimum", minimum)
        case ClipToReference(kappa=kappa):
            _checks.check_positive(f"{name}.kappa", kappa)
        case Mapping():
            layers.check_types(name, threshold)
            for layer_type, value in threshold.items():
                _checks.check_positive(f"{name}[{layer_type!r}]", value)
        case None:
            pass
        case _ if _checks.is_number(threshold) or hasattr(threshold, "shape"):
            _checks.check_positive(name, threshold)
        case _:
            raise ValueError(
                f"{name} must be a number above 0, a mapping from layer types to numbers, "
                f"a rule such as ClipToParameters, or None, but it is {threshold!r}."
            )


def thresholds(
    threshold: Threshold | ClipToReference,
    strata: _strata.Strata,
    *,
    params: Any = None,
    labels: Any = None,
    reference: jax.Array | None = None,
) -> ArrayLike:
    """The largest norm allowed to each stratum: one number, or a vector of shape (strata,)."""
    match threshold:
        case ClipToParameters(ratio=ratio, minimum=minimum):
            if params is None:
                raise ValueError(
                    "Clipping to the parameters' norm needs them: pass params to update."
                )
            return ratio * jnp.maximum(strata.norms(params), minimum)
        case ClipToReference(kappa=kappa):
            assert reference is not None
            # No reference yet (the first step, or only zeros so far) means no limit.
            return jnp.where(reference > 0, kappa * reference, jnp.inf)
        case Mapping():
            return jnp.asarray(_by_type(threshold, strata, labels), jnp.float32)
        case None:
            return math.inf
        case _:
            return threshold


def clip_factors(norms: jax.Array, limits: ArrayLike) -> jax.Array:
    """What to multiply each stratum by so that its norm is at most its limit; 1 inside it."""
    clipped = norms > limits
    # Divided only where it is clipped: the slopes of what is not selected must be finite too.
    return jnp.where(clipped, jnp.where(clipped, limits, 1.0) / jnp.where(clipped, norms, 1.0), 1.0)


def clip_by_layer_norm(
    max_norm: Threshold,
    *,
    stratum: _strata.Stratum = "layer",
    layers: LayersLike = Layers(),
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Clips every layer's update to a largest norm of its own.

    Where ``optax.clip_by_global_norm`` shrinks everything when one layer explodes, this shrinks
    that layer. A slice of a stacked ``[L, ...]`` leaf is a layer. Norms up to 8.5e37 are right, and
    larger ones count as that.

    Inside ``jax.shard_map``, where every device sees its own part of an array, norms are those of
    the whole arrays: the type of a part says over which mesh axes it varies. Only that the layers
    of a stack are split themselves it does not say; that would add up the norms of different ones,
    so let such an axis be an automatic one. With ``check_vma=False`` types say nothing, and
    ``axis_name`` has to.

    Args:
      max_norm: the largest L2 norm: a number, a mapping from layer types to numbers (types left out
        are not clipped), or :class:`ClipToParameters`. None switches clipping off.
      stratum: what has a norm: ``'layer'``, ``'block'`` or ``'type'``.
      layers: how layers and their types are found; see :class:`Layers`.
      axis_name: the mesh axes over which all arrays are split, for ``jax.shard_map`` with
        ``check_vma=False``. An array that is whole on every device would count once for each. Where
        types say what varies, they are believed, and not this.

    Returns:
      A stateless transformation.

    Raises:
      ValueError: a threshold is not above zero, a layer type is unknown, or thresholds by type meet
        ``stratum='block'``, whose blocks span types; at ``init``, a parameter is no floating-point
        array.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_strat import clip_by_layer_norm
      >>> tx = clip_by_layer_norm(1.0)
      >>> gradients = {'small': jnp.array([0.3, 0.4]), 'large': jnp.array([3.0, 4.0])}
      >>> clipped, _ = tx.update(gradients, tx.init(gradients))
      >>> clipped['small'].tolist() == gradients['small'].tolist()
      True
      >>> [round(x, 6) for x in clipped['large'].tolist()]
      [0.6, 0.8]
    """
    layers = as_layers(layers)
    check_threshold("max_norm", max_norm, layers)
    if isinstance(max_norm, ClipToReference):
        raise ValueError("max_norm cannot be ClipToReference: only stratopt has a reference norm.")
    check_stratum(stratum, max_norm)

    def init(params: Any) -> optax.EmptyState:
        _checks.check_parameters(params)
        if isinstance(max_norm, Mapping):
            _layers.warn_of_unused("max_norm", max_norm, params, layers)
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        del extra_args
        strata = _strata.strata(updates, layers, stratum, axis_name)
        labels = layers.labels(updates) if isinstance(max_norm, Mapping) else None
        limits = thresholds(max_norm, strata, params=params, labels=labels)
        factors = strata.spread(clip_factors(strata.norms(updates), limits), updates)
        return _scaled_tree(updates, factors), state

    return optax.GradientTransformationExtraArgs(init, update)


def clip_by_global(max_norm: ArrayLike, layers: Layers) -> optax.GradientTransformation:
    """``optax.clip_by_global_norm``, but right for large numbers and inside ``jax.shard_map``."""

    def update(updates: Any, params: Any) -> Any:
        del params
        strata = _strata.strata(updates, layers)
        norm = jnp.minimum(_sums.joint_norm(strata.norms(updates)), _sums.LARGEST)
        return _scaled_tree(updates, strata.spread(clip_factors(norm, max_norm), updates))

    return optax.stateless(update)


def check_stratum(stratum: _strata.Stratum, threshold: Threshold | ClipToReference) -> None:
    """Raises ValueError for an unknown stratum, and where thresholds by type cannot apply to it."""
    _checks.check_choice("stratum", stratum, ("layer", "block", "type"))
    if isinstance(threshold, Mapping) and stratum == "block":
        raise ValueError(
            "Thresholds by layer type do not apply to stratum='block', whose blocks span several "
            "types; use stratum='layer' or 'type', or one number."
        )


def _scaled_tree(tree: Any, factors: list[Any]) -> Any:
    leaves, treedef = jax.tree.flatten(tree)
    scaled = [_scaled(x, factor) for x, factor in zip(leaves, factors, strict=True)]
    return jax.tree.unflatten(treedef, scaled)


def _scaled(x: jax.Array, factor: jax.Array) -> jax.Array:
    """x times a float32 factor, which a half-precision x alone might round to zero."""
    return (x.astype(jnp.promote_types(x.dtype, jnp.float32)) * factor).astype(x.dtype)


def _by_type(threshold: Mapping[str, Any], strata: _strata.Strata, labels: Any) -> list[Any]:
    """One limit per stratum from limits per type; types left out have none."""
    limits: list[Any] = [math.inf] * len(strata.names)
    for leaf, label in zip(strata.leaves, jax.tree.leaves(labels), strict=True):
        entries = range(leaf.start, leaf.stop)
        for entry in entries:
            limits[entry if strata.groups is None else strata.groups[entry]] = threshold.get(
                label, math.inf
            )
    return limits
