r"""StratOpt.

"StratOpt: A Stratified Optimization Approach for Language Model Training" (Aardvark, October 30,
2025): Adam's moments without bias correction, and for each layer a learning rate that follows the
layer's own gradient norm.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from optax_strat import (
    _checks,
    _clipping,
    _decay,
    _guard,
    _layers,
    _moments,
    _second_moments,
    _strata,
)
from optax_strat._layers import Layers, LayersLike, as_layers
from optax_strat._meshes import AxisName
from optax_strat._readings import (
    REFERENCES,
    Reference,
    StratoptReadings,
    momentum,
    update_reference,
)
from optax_strat._schedules import scale_by_learning_rate


class ScaleByStratoptState(NamedTuple):
    """State of :func:`scale_by_stratopt`; :func:`strata_names` names the vectors' entries."""

    # In this order XLA finds each output's own donated buffer. With b1_product, which most often
    # passes through, behind the other vectors it copied two of them at every step.

    count: jax.Array  # type: ignore[assignment]
    """t, int32 of shape ()."""
    mu: Any
    """m_t, like the parameters, in ``mu_dtype``; None with ``b1=0``."""
    nu: Any
    """v_t, like the parameters, real: as ``second_moment`` says, by default in float32."""
    b1_product: jax.Array
    """The product of all β_1 so far, float32 of shape (strata,), for the bias correction of an
    adjusted momentum; 1 where momentum is not adjusted."""
    gbar: jax.Array
    """The reference norms, float32 of shape (strata,)."""
    alpha: jax.Array
    """α_t, float32 of shape (strata,); before the first step 1, the paper's α_0."""
    clip_factor: jax.Array
    """What each stratum's gradients were multiplied by, float32 of shape (strata,)."""

    @property
    def kept_by_accept(self) -> bool:
        """Whether the guard leaves this state to its transformation: see ``_guard.KeepsState``."""
        return True


def scale_by_stratopt(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    *,
    eps_root: ArrayLike = 0.0,
    reference: Reference = "ema",
    scale_bounds: tuple[ArrayLike, ArrayLike] | None = (0.1, 10.0),
    bias_correction: bool = False,
    layer_clip: _clipping.Threshold | _clipping.ClipToReference = 1.0,
    mu_dtype: DTypeLike | None = None,
    second_moment: _second_moments.SecondMoment = None,
    layers: LayersLike = Layers(),
    readings: StratoptReadings = StratoptReadings(),
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The direction :math:`\alpha_t m_t / (\sqrt{v_t} + \epsilon)` of :func:`stratopt`.

    Without sign, learning rate and weight decay. All norms go into one vector, on which clip
    factor, norm after clipping and scaling factor are computed; then one pass over the parameters
    reads each gradient once more and writes everything.

    With ``b1=0`` (a number, not a schedule) no first moment is kept. That, with
    ``second_moment='factored'``, is a normalization that costs next to no memory, to stand in front
    of :func:`scale_by_muon`.

    Args:
      b1, b2, eps, eps_root, reference, scale_bounds, bias_correction, layer_clip: those of
        :func:`stratopt`.
      mu_dtype, second_moment, layers, readings: likewise.
      axis_name: for ``jax.shard_map`` with ``check_vma=False``; see :func:`clip_by_layer_norm`.

    Returns:
      The transformation; its state is a :class:`ScaleByStratoptState`.

    Raises:
      ValueError: an argument lies outside what it may be.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_strat import scale_by_stratopt
      >>> tx = scale_by_stratopt(layer_clip=None)
      >>> gradient = jnp.array([3.0, 4.0])
      >>> direction, state = tx.update(gradient, tx.init(gradient))
      >>> [round(x, 4) for x in direction.tolist()]  # 0.1 g / sqrt(0.001 g²)
      [3.1623, 3.1623]
      >>> round(float(state.gbar[0]), 4), round(float(state.alpha[0]), 4)
      (5.0, 1.0)
    """
    _checks.check_decay("b1", b1)
    _checks.check_decay("b2", b2)
    _checks.check_not_negative("eps", eps)
    _checks.check_not_negative("eps_root", eps_root)
    _checks.check_choice("reference", reference, REFERENCES)
    _checks.check_bounds("scale_bounds", scale_bounds)
    layers = as_layers(layers)
    readings.check(b1)
    stratum, mixes, adjusts = (
        readings.stratum,
        readings.gradient_mixing is not None,
        readings.momentum_adjustment is not None,
    )
    _clipping.check_threshold("layer_clip", layer_clip, layers)
    _clipping.check_stratum(stratum, layer_clip)
    mu_dtype = _checks.floating_dtype("mu_dtype", mu_dtype)
    _second_moments.check_second_moment(second_moment)

    def init(params: Any) -> ScaleByStratoptState:
        if isinstance(layer_clip, Mapping):
            _layers.warn_of_unused("layer_clip", layer_clip, params, layers)
        shape = (len(_strata.strata(params, layers, stratum).names),)
        return ScaleByStratoptState(
            count=jnp.zeros([], jnp.int32),
            mu=_moments.zero_mu(params, mu_dtype) if _moments.keeps_mu(b1) else None,
            nu=_second_moments.zero_nu(params, second_moment, layers),
            b1_product=jnp.ones(shape, jnp.float32),
            gbar=jnp.zeros(shape, jnp.float32),
            alpha=jnp.ones(shape, jnp.float32),
            clip_factor=jnp.ones(shape, jnp.float32),
        )

    def clip(
        norms: jax.Array, strata: _strata.Strata, gbar: jax.Array, updates: Any, params: Any
    ) -> tuple[jax.Array, jax.Array]:
        """The factors that clip, and the norms after clipping without a second read."""
        labels = layers.labels(updates) if isinstance(layer_clip, Mapping) else None
        limits = _clipping.thresholds(
            layer_clip, strata, params=params, labels=labels, reference=gbar
        )
        factors = _clipping.clip_factors(norms, limits)
        return factors.astype(jnp.float32), jnp.minimum(norms, limits).astype(jnp.float32)

    def update(
        updates: Any,
        state: ScaleByStratoptState,
        params: Any = None,
        *,
        accept: Any = None,
        **extra_args: Any,
    ) -> tuple[Any, ScaleByStratoptState]:
        del extra_args
        _checks.check_gradients(updates, _second_moments.like_parameters(state.nu))
        _second_moments.check_factored(state.nu, updates, layers, axis_name)
        _moments.check_mu(state.mu, b1, updates)
        count = _moments.keep(accept, optax.safe_increment(state.count), state.count)
        strata = _strata.strata(updates, layers, stratum, axis_name)
        strata.check_vector(state.gbar)
        norms, clip_factor = strata.norms(updates), jnp.ones_like(state.clip_factor)
        if layer_clip is not None:
            clip_factor, norms = clip(norms, strata, state.gbar, updates, params)
        gbar = update_reference(reference, state.gbar, norms, count, readings.reference_decay)
        alpha = norms / (gbar + eps)  # 3.1, step c
        if scale_bounds is not None:
            alpha = jnp.clip(alpha, *scale_bounds)
        alpha = alpha.astype(jnp.float32)

        b1_t, weight = momentum(updates, state.mu, strata, b1, readings)
        b1_product = state.b1_product
        c1, c2 = _moments.corrections(count, b1, b2) if bias_correction else (1.0, 1.0)
        if adjusts:
            b1_product = (b1_t * b1_product).astype(jnp.float32)
            c1 = 1 / (1 - b1_product) if bias_correction else 1.0

        def step(
            g: jax.Array, mu: jax.Array | None, nu: Any, seed: jax.Array, *of_leaf: Any
        ) -> tuple[jax.Array, jax.Array | None, Any]:
            factor, scale, b1_t, c1, weight = of_leaf
            g = g if layer_clip is None else factor * g
            mu, nu = _moments.update_moments(
                g, mu, nu, seed, b1_t, b2, centred=readings.centred, accept=accept
            )  # 3.1, step b
            m, v = g if mu is None else _moments.widened(mu, g), _second_moments.estimate(nu)
            numerator = m * c1
            if mixes:
                numerator = numerator + weight * (g - numerator)
            return scale * numerator / (jnp.sqrt(v * c2 + eps_root) + eps), mu, nu  # 3.1, step d

        per_leaf = [strata.spread(x, updates) for x in (clip_factor, alpha, b1_t, c1, weight)]
        directions, mu, nu = _moments.one_pass(step, updates, state.mu, state.nu, count, *per_leaf)
        return directions, ScaleByStratoptState(
            count=count,
            mu=mu,
            nu=nu,
            b1_product=_moments.keep(accept, b1_product, state.b1_product),
            gbar=_moments.keep(accept, gbar, state.gbar),
            alpha=_moments.keep(accept, alpha, state.alpha),
            clip_factor=_moments.keep(accept, clip_factor, state.clip_factor),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def stratopt(
    learning_rate: optax.ScalarOrSchedule,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    *,
    eps_root: ArrayLike = 0.0,
    reference: Reference = "ema",
    scale_bounds: tuple[ArrayLike, ArrayLike] | None = (0.1, 10.0),
    bias_correction: bool = False,
    layer_clip: _clipping.Threshold | _clipping.ClipToReference = 1.0,
    weight_decay: optax.ScalarOrSchedule = 0.1,
    mask: _decay.Mask = None,
    nonfinite: _guard.Nonfinite = None,
    mu_dtype: DTypeLike | None = None,
    second_moment: _second_moments.SecondMoment = None,
    layers: LayersLike = Layers(),
    readings: StratoptReadings = StratoptReadings(),
) -> optax.GradientTransformationExtraArgs:
    r"""StratOpt: a learning rate for each layer that follows its gradient norm.

    With :math:`g_t` the gradient of one layer after clipping, :math:`\eta_t` the ``learning_rate``,
    :math:`\lambda` the ``weight_decay`` and :math:`\beta_1, \beta_2, \epsilon` the arguments
    ``b1``, ``b2`` and ``eps``:

    .. math::

      \begin{align*}
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \alpha_t &= \mathrm{clip}\left(\frac{\|g_t\|}{\bar g_t + \epsilon}, 0.1, 10\right) \\
        \theta_{t+1} &= \theta_t - \eta_t \left( \frac{\alpha_t m_t}{\sqrt{v_t} + \epsilon}
        + \lambda \theta_t \right)
      \end{align*}

    A *layer* is one parameter tensor, and of a stacked ``[L, ...]`` leaf each slice. Where the
    paper is silent, the defaults are one reading among several, and each part can be switched off:
    the equations of section 3.1 alone are ``stratopt(learning_rate, scale_bounds=None,
    layer_clip=None, weight_decay=0.0)``.

    Without bias correction the first steps are long: :math:`m_t / \sqrt{v_t}` starts at 3.2 and
    peaks at 6.6 for a steady gradient, so warm up: "Warmup schedule for stable initialization"
    (3.2).

    Args:
      learning_rate: η_t, 0 or above, or an optax schedule; :func:`warmup_cosine` makes one.
      b1: decay β_1 of the first moment, in [0, 1).
      b2: decay β_2 of the second moment, in [0, 1).
      eps: ε in both denominators, 0 or above.
      eps_root: added to v_t inside the square root, 0 or above. Above 0 the gradients of a loss
        with respect to what came before the update (meta-gradients) are finite where v_t is zero.
      reference: the reference norm that section 3.1 divides by and does not define.
        ``'ema'``: the layer's own norm, averaged over time and corrected for its start, so that
        α_1 = 1. ``'running_mean'``: the same over all steps alike. ``'layer_mean'``: the mean over
        all layers at this step. ``'global_ema'``: that mean, averaged over time.
      scale_bounds: the lowest and the highest α_t; None leaves it unbounded, as printed.
      bias_correction: correct both moments as Adam does; section 3.1 does not.
      layer_clip: "Gradient clipping based on layer-wise thresholds" (3.2): the largest norm of a
        layer's gradient. A number; a mapping from layer types to numbers;
        :class:`ClipToReference` for a multiple of the layer's own reference norm;
        :class:`ClipToParameters` for a share of its parameters' norm; or None.
      weight_decay: λ, decoupled, 0 or above, or a schedule: "Separate parameter groups for weight
        decay" (3.2). Not scaled by α_t.
      mask: which parameters decay, as in ``optax.adamw``; None means matrices only: no norms, no
        biases, stacked ones included (:func:`decays`).
      nonfinite: what to do with gradients that are not finite: None as in the paper, or
        ``'skip'`` or ``'nan_to_num'`` as in :func:`aardvark`.
      mu_dtype: dtype of the first moment, or its name, such as ``'bfloat16'``: "Memory-efficient
        state tracking" (3.2). None means the parameters' own.
      second_moment: how the second moment is kept. None: in float32. ``'bfloat16'``: rounded
        stochastically, because rounded to the nearest it would never decay. ``'factored'``: only
        the means of the rows and the columns of each layer's, as Adafactor does; inside
        ``jax.shard_map`` a matrix that is split there is refused.
      layers: how layers and their types are found; see :class:`Layers`.
      readings: what the paper names and does not define: the reference's decay, gradient mixing,
        momentum adjustment, a centred second moment, and what shares one α_t.

    Returns:
      The optimizer.

    Raises:
      ValueError: a number lies outside its range, an option is unknown, thresholds by type meet
        ``stratum='block'``; at ``init``, a parameter without a layer type that needs one, or a
        tree whose stacked layers can be read in two ways.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from optax_strat import stratopt
      >>> loss = lambda params: jnp.sum((params - 1.0) ** 2)
      >>> params = jnp.array([0.0, 3.0])
      >>> tx = stratopt(0.1)
      >>> state = tx.init(params)
      >>> for _ in range(3):
      ...     updates, state = tx.update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     print(f'{loss(params):.2f}')
      3.30
      1.65
      0.62
    """
    layers = as_layers(layers)
    direction = scale_by_stratopt(
        b1,
        b2,
        eps,
        eps_root=eps_root,
        reference=reference,
        scale_bounds=scale_bounds,
        bias_correction=bias_correction,
        layer_clip=layer_clip,
        mu_dtype=mu_dtype,
        second_moment=second_moment,
        layers=layers,
        readings=readings,
    )
    optimizer = optax.chain(
        direction,
        _decay.add_decay(weight_decay, mask, layers),
        scale_by_learning_rate(learning_rate),
    )
    return _guard.protect(optimizer, nonfinite, layers)
