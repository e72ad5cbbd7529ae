"""Muon on the matrices of a language model, whatever shape their kernels have."""

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike
from optax import contrib

from optax_strat import _checks, _layer_types, _matrices, _meshes, _paths
from optax_strat._layers import Layers, LayersLike, as_layers

Coefficients: TypeAlias = Sequence[ArrayLike] | Sequence[Sequence[ArrayLike]]
Preconditioning: TypeAlias = Literal["frobenius", "spectral", "aol", "schatten"]


def scale_by_muon(
    beta: ArrayLike = 0.95,
    ns_steps: int = 5,
    eps: ArrayLike = 1e-8,
    *,
    ns_coeffs: Coefficients = (3.4445, -4.7750, 2.0315),
    preconditioning: Preconditioning = "frobenius",
    rms: ArrayLike | Literal["jordan"] | None = 0.2,
    nesterov: bool = True,
    mu_dtype: DTypeLike | None = None,
    matrices: _matrices.MatrixRules = _matrices.DEFAULT_MATRICES,
    layers: LayersLike = Layers(),
) -> optax.GradientTransformationExtraArgs:
    r"""Muon's direction for every matrix that it gets, for a group of :func:`stratify`.

    ``optax.contrib.scale_by_muon``, with four things added. It finds the matrices by itself: each
    layer of a stack and each expert is orthogonalized on its own, and an attention kernel
    [D, N, H] as the matrix from D to N·H (:func:`muon_dimensions` shows which it finds). It gives
    its updates the size of Adam's, so that both go with one learning rate:

    .. math::
      u = 0.2 \sqrt{\max(in, out)} \; \mathrm{NewtonSchulz}(m)

    It works on meshes with explicit axes, on which Optax's own fails (its products contract sharded
    dimensions): the shardings of updates and state stay, those inside are the compiler's. And
    float16 gradients are orthogonalized in float32, where a gradient of zeros gives zeros.

    Args:
      beta: decay of the momentum, in [0, 1).
      ns_steps: Newton-Schulz iterations; static, so ``inject_hyperparams`` must be told.
      eps: added to norms, 0 or above.
      ns_coeffs: three coefficients of an iteration, or three for each, whose number then replaces
        ``ns_steps``.
      preconditioning: what bounds singular values before the first iteration; see
        ``optax.contrib.muon``.
      rms: the size of updates: the root mean square of their entries that matrices of full rank
        get, above 0; or ``'jordan'``, orthogonal updates times :math:`\sqrt{\max(1, out/in)}`, for
        learning rates of Jordan's Muon; or None, orthogonal updates as they are.
      nesterov: whether to look ahead. As in Optax the momentum is bias-corrected, so that in the
        first steps it weighs more beside the gradient than in Jordan's.
      mu_dtype: dtype of the momentum, or its name; None means the parameters' own.
      matrices: rules for kernels, yours before the default ones; see :data:`DEFAULT_MATRICES`.
      layers: how layers and their types are found; see :class:`Layers`.

    Returns:
      The transformation; its state is an ``optax.contrib.MuonState``, with one count and the
      momentum alone (``ns_coeffs`` is None: the coefficients are constants).

    Raises:
      ValueError: an argument lies outside its range; at ``init``, a parameter is no matrix, or it
        is not known which dimensions form it.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_strat import DEFAULT_MATRICES, muon_dimensions, scale_by_muon
      >>> tx = scale_by_muon(rms=None)
      >>> gradients = {'mlp': jnp.diag(jnp.array([1.0, 10.0]))}
      >>> updates, _ = tx.update(gradients, tx.init(gradients))
      >>> bool(jnp.allclose(updates['mlp'], jnp.eye(2), atol=0.35))
      True

      Queries and keys of 2 heads, orthogonalized head by head and not as one matrix from 8 to 2·4:

      >>> by_head = (('query|key', 'ibo'), *DEFAULT_MATRICES)
      >>> tx = scale_by_muon(rms='jordan', matrices=by_head)
      >>> params = {'attn': {'query': jnp.ones((8, 2, 4)), 'value': jnp.ones((8, 2, 4))}}
      >>> for name, sides in muon_dimensions(params, matrices=by_head)['attn'].items():
      ...     print(name, *sides)
      query (0,) (2,)
      value (0,) (1, 2)

    References:
      Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024. Liu et al., Muon
      is scalable for LLM training, 2025 (arXiv:2502.16982), for the size of the updates.
    """
    _checks.check_decay("beta", beta)
    _checks.check_count("ns_steps", ns_steps)
    _checks.check_not_negative("eps", eps)
    _checks.check_choice("preconditioning", preconditioning, _PRECONDITIONINGS)
    _check_coefficients(ns_coeffs)
    if isinstance(rms, str):
        _checks.check_choice("rms", rms, ("jordan",))
    elif rms is not None:
        _checks.check_positive("rms", rms)
    mu_dtype = _checks.floating_dtype("mu_dtype", mu_dtype)
    layers = as_layers(layers)

    # The singular value decomposition behind 'spectral' knows no half precision either.
    narrow = (jnp.float16, jnp.bfloat16) if preconditioning == "spectral" else (jnp.float16,)

    def dimensions(tree: Any) -> Any:
        return jax.tree.unflatten(jax.tree.structure(tree), _sides(tree, matrices, layers))

    def direction(
        updates: Any, mu: Any, count: jax.Array, beta: Any, eps: Any, rms: Any, coefficients: Any
    ) -> tuple[Any, Any]:
        muon = contrib.scale_by_muon(
            ns_steps=ns_steps,
            beta=beta,
            eps=eps,
            nesterov=nesterov,
            preconditioning=preconditioning,
            weight_dimension_numbers=dimensions,
        )
        wide_g, wide_mu = jax.tree.map(
            lambda x: x.astype(jnp.float32) if x.dtype in narrow else x, (updates, mu)
        )
        state = contrib.MuonState(count, wide_mu, jnp.asarray(coefficients))
        directions, state = muon.update(wide_g, state)

        def sized(u: jax.Array, g: jax.Array, sides: contrib.MuonDimensionNumbers) -> jax.Array:
            return (u * _size(rms, u.shape, sides)).astype(g.dtype)

        directions = jax.tree.map(sized, directions, updates, dimensions(updates))
        return directions, jax.tree.map(lambda new, old: new.astype(old.dtype), state.mu, mu)

    def init(params: Any) -> contrib.MuonState:
        dimensions(params)
        mu = optax.tree.zeros_like(params, dtype=mu_dtype)
        return contrib.MuonState(count=jnp.zeros([], jnp.int32), mu=mu, ns_coeffs=None)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        del params, extra_args
        arguments = (updates, state.mu, state.count, beta, eps, rms, ns_coeffs)
        if _meshes.on_explicit_axes():
            specs = _meshes.specs((updates, state.mu))
            updates, mu = _meshes.on_automatic_axes(direction, specs, *arguments)
        else:
            updates, mu = direction(*arguments)
        return updates, state._replace(count=optax.safe_increment(state.count), mu=mu)

    return optax.GradientTransformationExtraArgs(init, update)


_PRECONDITIONINGS = ("frobenius", "spectral", "aol", "schatten")


def _check_coefficients(coefficients: Any) -> None:
    """Raises ValueError unless there are three coefficients, or three for each iteration."""
    try:
        shape = np.shape(coefficients)
    except ValueError:  # Rows of different lengths.
        shape = ()
    if not shape or shape[-1] != 3 or len(shape) > 2 or 0 in shape:
        raise ValueError(
            "ns_coeffs must be three numbers, or three for each Newton-Schulz iteration, but it is "
            f"{coefficients!r}."
        )


def _sides(
    tree: Any, rules: _matrices.MatrixRules, layers: Layers
) -> list[contrib.MuonDimensionNumbers]:
    """The two sides of the matrices in each leaf of a tree; raises where there are none."""
    found = _matrices.matrix_axes(tree, rules, layers)
    vectors = [
        "/".join(names)
        for (names, _), known in zip(_paths.named_leaves(tree), found, strict=True)
        if known is None
    ]
    if vectors:
        raise ValueError(
            f"Muon is for matrices, and these parameters are none:\n"
            f"  {_layer_types.listed(vectors)}\n"
            "Give them a type of their own by a rule, layers=Layers(rules="
            f"((r'{vectors[0].rpartition('/')[2]}', 'vector'), *DEFAULT_RULES)), and stratify a "
            "key 'vector' with a transformation for vectors, such as optax.scale_by_adam()."
        )
    return [contrib.MuonDimensionNumbers(*known) for known in found if known is not None]


def _size(
    rms: ArrayLike | str | None, shape: Sequence[int], sides: contrib.MuonDimensionNumbers
) -> Any:
    """What an orthogonal update of a shape is multiplied by."""
    fan_in, fan_out = (math.prod(shape[axis] for axis in side) for side in sides)
    if rms is None:
        return 1.0
    if isinstance(rms, str):
        return max(1.0, fan_out / fan_in) ** 0.5
    return rms * max(fan_in, fan_out) ** 0.5
