r"""Aardvark.

"Aardvark: A Robust Optimizer for Language Model Training" (Aardvark, October 29, 2025): AdamW with
a learning rate multiplier for each layer type, gradient clipping, and numerical stability checks.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from optax_strat import (
    _checks,
    _clipping,
    _decay,
    _guard,
    _moments,
    _scaling,
    _second_moments,
    _strata,
    _sums,
)
from optax_strat._layers import Layers, LayersLike, as_layers
from optax_strat._meshes import AxisName
from optax_strat._scaling import MULTIPLIERS, Adaptive, adapt_layer_types, warn_if_tied
from optax_strat._schedules import scale_by_learning_rate

ClipMode: TypeAlias = Literal["global_norm", "per_tensor", "elementwise"]
"""By the norm of all gradients together, by each layer's own, or entry by entry."""

Scaling: TypeAlias = Literal["fixed", "adaptive", "normalized"] | Adaptive
"""Equation 1 as printed, multipliers that follow the gradients, or equation 1 with mean 1."""


class ScaleByAardvarkState(NamedTuple):
    """State of :func:`scale_by_aardvark`."""

    count: jax.Array  # type: ignore[assignment]
    """t, int32 of shape ()."""
    mu: Any
    """m_t, like the parameters, in ``mu_dtype``."""
    nu: Any
    """v_t, like the parameters, real: as ``second_moment`` says, by default in float32."""
    clip_factor: jax.Array
    """What the gradients were multiplied by (eq. 3): float32 of shape (), or of shape (layers,) for
    ``clip_mode='per_tensor'``; 1 where no norm is clipped."""

    @property
    def kept_by_accept(self) -> bool:
        """Whether the guard leaves this state to its transformation: see ``_guard.KeepsState``."""
        return True


def scale_by_aardvark(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    *,
    eps_root: ArrayLike = 0.0,
    clip: ArrayLike | None = 1.0,
    clip_mode: ClipMode = "global_norm",
    mu_dtype: DTypeLike | None = None,
    second_moment: _second_moments.SecondMoment = None,
    layers: LayersLike = Layers(),
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The direction :math:`\hat m_t / (\sqrt{\hat v_t} + \epsilon)` of :func:`aardvark`.

    Equations 3 to 7: clipping and Adam's moments, without sign, learning rate, multipliers and
    weight decay. The clipped gradients are never written: the pass over the moments applies the
    clip factor where it reads the gradient.

    Args:
      b1, b2, eps, eps_root, clip, clip_mode, mu_dtype, second_moment, layers: those of
        :func:`aardvark`.
      axis_name: for ``jax.shard_map`` with ``check_vma=False``; see :func:`clip_by_layer_norm`.

    Returns:
      The transformation; its state is a :class:`ScaleByAardvarkState`.

    Raises:
      ValueError: an argument lies outside what it may be.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_strat import scale_by_aardvark
      >>> tx = scale_by_aardvark()
      >>> gradient = jnp.array([3.0, -4.0])
      >>> direction, state = tx.update(gradient, tx.init(gradient))
      >>> [round(x, 4) for x in direction.tolist()], [round(x, 4) for x in state.mu.tolist()]
      ([1.0, -1.0], [0.06, -0.08])
    """
    _checks.check_decay("b1", b1)
    _checks.check_decay("b2", b2)
    _checks.check_not_negative("eps", eps)
    _checks.check_not_negative("eps_root", eps_root)
    layers = as_layers(layers)
    if clip is not None:
        _checks.check_positive("clip", clip)
    _checks.check_choice("clip_mode", clip_mode, ("global_norm", "per_tensor", "elementwise"))
    mu_dtype = _checks.floating_dtype("mu_dtype", mu_dtype)
    _second_moments.check_second_moment(second_moment)
    clips_norms = clip is not None and clip_mode != "elementwise"
    by_layer = clips_norms and clip_mode == "per_tensor"

    def init(params: Any) -> ScaleByAardvarkState:
        shape = (len(_strata.strata(params, layers).names),) if by_layer else ()
        return ScaleByAardvarkState(
            count=jnp.zeros([], jnp.int32),
            mu=_moments.zero_mu(params, mu_dtype),
            nu=_second_moments.zero_nu(params, second_moment, layers),
            clip_factor=jnp.ones(shape, jnp.float32),
        )

    def clip_norms(updates: Any, state: ScaleByAardvarkState) -> tuple[jax.Array, list[jax.Array]]:
        """What equation 3 multiplies by, and each leaf's part of it."""
        assert clip is not None
        strata = _strata.strata(updates, layers, axis_name=axis_name)
        if by_layer:
            strata.check_vector(state.clip_factor)
        norms = strata.norms(updates)
        norms = norms if by_layer else _sums.joint_norm(norms)
        factor = _clipping.clip_factors(norms, clip).astype(jnp.float32)
        return factor, strata.spread(factor, updates)

    def update(
        updates: Any,
        state: ScaleByAardvarkState,
        params: Any = None,
        *,
        accept: Any = None,
        **extra_args: Any,
    ) -> tuple[Any, ScaleByAardvarkState]:
        del params, extra_args
        _checks.check_gradients(updates, state.mu)
        _second_moments.check_factored(state.nu, updates, layers, axis_name)
        count = _moments.keep(accept, optax.safe_increment(state.count), state.count)
        c1, c2 = _moments.corrections(count, b1, b2)

        def step(
            g: jax.Array, mu: jax.Array, nu: Any, seed: jax.Array, factor: Any
        ) -> tuple[jax.Array, jax.Array, Any]:
            if clips_norms:
                g = factor * g  # eq. 3
            elif clip is not None:
                limit = jnp.asarray(clip, g.real.dtype)
                g = jnp.clip(g, -limit, limit)  # eq. 3, literally
            # Equations 4 and 5, then 6 to 8.
            new_mu, nu = _moments.update_moments(g, mu, nu, seed, b1, b2, accept=accept)
            assert new_mu is not None
            m, v = _moments.widened(new_mu, g), _second_moments.estimate(nu)
            return m * c1 / (jnp.sqrt(v * c2 + eps_root) + eps), new_mu, nu

        clip_factor = state.clip_factor
        factors: list[Any] = [None] * len(jax.tree.leaves(updates))
        if clips_norms:
            clip_factor, factors = clip_norms(updates, state)
        directions, mu, nu = _moments.one_pass(step, updates, state.mu, state.nu, count, factors)
        clip_factor = _moments.keep(accept, clip_factor, state.clip_factor)
        return directions, ScaleByAardvarkState(count, mu, nu, clip_factor)

    return optax.GradientTransformationExtraArgs(init, update)


def aardvark(
    learning_rate: optax.ScalarOrSchedule,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    *,
    eps_root: ArrayLike = 0.0,
    multipliers: Mapping[str, ArrayLike] | None = None,
    scaling: Scaling = "fixed",
    clip: ArrayLike | None = 1.0,
    clip_mode: ClipMode = "global_norm",
    nonfinite: _guard.Nonfinite = "skip",
    weight_decay: optax.ScalarOrSchedule = 0.1,
    decay_rate: Literal["group", "base"] = "group",
    mask: _decay.Mask = None,
    mu_dtype: DTypeLike | None = None,
    second_moment: _second_moments.SecondMoment = None,
    layers: LayersLike = Layers(),
) -> optax.GradientTransformationExtraArgs:
    r"""Aardvark: AdamW with a multiplier for each layer type, clipping and a non-finite guard.

    With :math:`\eta` the ``learning_rate``, :math:`\gamma` the threshold ``clip``, :math:`\lambda`
    the ``weight_decay`` and :math:`\alpha_l` the multiplier of a parameter's layer type:

    .. math::

      \begin{align*}
        g_t &= \mathrm{clip}(\nabla_\theta \mathcal{L}, \gamma) \tag{3} \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \tag{4} \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \tag{5} \\
        \hat m_t &= m_t / (1 - \beta_1^t) \tag{6} \\
        \hat v_t &= v_t / (1 - \beta_2^t) \tag{7} \\
        \theta_t &= \theta_{t-1} - \eta \alpha_l \left( \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}
        + \lambda \theta_{t-1} \right) \tag{8}
      \end{align*}

    The equations alone are ``aardvark(learning_rate, clip_mode='elementwise', nonfinite=None,
    weight_decay=0.0)``. With all multipliers 1, ``clip=None`` and ``nonfinite=None`` it is
    ``optax.adamw`` with a decay mask. The mean multiplier of a language model is near 1.34, so the
    fair control is AdamW at 1.34 times the rate, or ``scaling='normalized'``.

    A tied head has no parameter of its own: the embedding is both, and gets the embedding's
    multiplier. A warning says so where no parameter is a head; for the head's multiplier pass
    ``multipliers={'embedding': 1.8}``.

    Args:
      learning_rate: η_base, 0 or above, or an optax schedule.
      b1: decay β_1 of the first moment, in [0, 1).
      b2: decay β_2 of the second moment, in [0, 1).
      eps: ε, 0 or above.
      eps_root: added to v̂_t inside the square root, 0 or above; above 0 meta-gradients are finite.
      multipliers: multipliers by layer type, over those of equation 1: embedding 1.0, attention
        1.5, mlp 1.2, head 1.8. All other types, those of your own rules too, have 1.0.
      scaling: ``'fixed'``: equation 1. ``'adaptive'``: "we dynamically adjust rates based on
        gradient statistics" (section 2), or an :class:`Adaptive` with numbers of your own;
        ``multipliers`` must be None. ``'normalized'``: equation 1 divided by its mean over all
        parameters, which tells the effect of the ratios from that of a larger rate (inside
        ``jax.shard_map`` over the parts that a device sees).
      clip: γ of equation 3, above 0, or None.
      clip_mode: equation 3 does not say what is clipped. ``'global_norm'``: the norm of all
        gradients together. ``'per_tensor'``: that of each layer. ``'elementwise'``: each entry, the
        letter of the equation, which all but never fires at 1.0.
      nonfinite: "numerical stability checks" (4.2). ``'skip'``: a step whose gradients are not
        finite changes nothing but a counter (:func:`skip_nonfinite`); call :func:`raise_if_stuck`
        on the state. ``'nan_to_num'``: such entries become zero (:func:`repair_nonfinite`). None:
        no check; ``skip_nonfinite(aardvark(..., nonfinite=None), ...)`` is one with other settings.
      weight_decay: λ, decoupled, 0 or above, or a schedule. "Weight decay: 0.1" is in the set-up
        (3.1); equation 8 has none.
      decay_rate: ``'group'``: decay goes with the rate of the parameter's group, η α_l λ, as in
        AdamW with parameter groups. ``'base'``: with η λ for all.
      mask: which parameters decay, as in ``optax.adamw``; None means matrices only: no norms, no
        biases, stacked ones included (:func:`decays`).
      mu_dtype: dtype of the first moment, or its name; None means the parameters' own.
      second_moment: how the second moment is kept. None: in float32. ``'bfloat16'``: rounded
        stochastically, because rounded to the nearest it would never decay. ``'factored'``: only
        the means of the rows and the columns of each layer's, as Adafactor does; inside
        ``jax.shard_map`` a matrix that is split there is refused.
      layers: how layers and their types are found; see :class:`Layers`.

    Returns:
      The optimizer.

    Raises:
      ValueError: a number lies outside its range, an option or a layer type is unknown, or
        ``multipliers`` meet ``scaling='adaptive'``; at ``init``, a parameter has no layer type.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from optax_strat import aardvark
      >>> kernel = jnp.ones((2, 2))
      >>> params = {'embed': kernel, 'attn': kernel, 'lm_head': kernel}
      >>> tx = aardvark(0.1, weight_decay=0.0)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> {name: round(u[0, 0].item(), 4) for name, u in updates.items()}
      {'attn': -0.15, 'embed': -0.1, 'lm_head': -0.18}
    """
    adaptive = Adaptive() if scaling == "adaptive" else scaling
    if not isinstance(adaptive, Adaptive):
        _checks.check_choice("scaling", scaling, ("fixed", "adaptive", "normalized"))
    elif multipliers is not None:
        raise ValueError("scaling='adaptive' measures the multipliers; leave multipliers at None.")
    _checks.check_choice("decay_rate", decay_rate, ("group", "base"))
    layers = as_layers(layers)
    layers.check_types("multipliers", multipliers or {})

    direction = scale_by_aardvark(
        b1,
        b2,
        eps,
        eps_root=eps_root,
        clip=clip,
        clip_mode=clip_mode,
        mu_dtype=mu_dtype,
        second_moment=second_moment,
        layers=layers,
    )
    decay = _decay.add_decay(weight_decay, mask, layers)
    inside, outside = (
        (decay, optax.identity()) if decay_rate == "group" else (optax.identity(), decay)
    )
    if isinstance(adaptive, Adaptive):
        scaled = adapt_layer_types(optax.chain(direction, inside), adaptive, layers)
    else:
        scales = _scaling.scale_by_layer_type(
            MULTIPLIERS | dict(multipliers or {}), layers, normalize=scaling == "normalized"
        )
        scaled = optax.chain(direction, inside, warn_if_tied(scales, multipliers, layers))
    optimizer = optax.chain(scaled, outside, scale_by_learning_rate(learning_rate))
    return _guard.protect(optimizer, nonfinite, layers)
