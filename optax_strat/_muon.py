"""Muon on the matrices of a language model, whatever shape their kernels have."""

import math
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import AxisType
from optax import contrib

from optax_strat import _checks, _layer_types, _layout, _matrices, _paths


def scale_by_muon(
    beta: Any = 0.95,
    ns_steps: int = 5,
    eps: Any = 1e-8,
    *,
    rms: Any = 0.2,
    nesterov: bool = True,
    mu_dtype: Any = None,
    matrices: _matrices.MatrixRules = _matrices.DEFAULT_MATRICES,
    layer_types: _layer_types.LayerTypes = None,
    stacked: _layout.Stacked = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Muon's direction for every matrix that it gets, for a group of :func:`stratify`.

    ``optax.contrib.scale_by_muon``, with three things added. It finds the matrices by itself: each
    layer of a stack and each expert is orthogonalized on its own, and an attention kernel
    [D, N, H] as the matrix from D to N·H. It gives its updates the size of Adam's, so that both go
    with one learning rate:

    .. math::
      u = 0.2 \sqrt{\max(in, out)} \; \mathrm{NewtonSchulz}(m)

    And it works on meshes with explicit axes, on which Optax's own fails (its products contract
    sharded dimensions): the shardings of updates and state stay, those inside are the compiler's.

    Args:
      beta: decay of the momentum, in [0, 1).
      ns_steps: Newton-Schulz iterations; static, so ``inject_hyperparams`` must be told.
      eps: added to norms, 0 or above.
      rms: the root mean square of the updates' entries that matrices of full rank get, above 0;
        None leaves them orthogonal.
      nesterov: whether to look ahead.
      mu_dtype: dtype of the momentum, or its name; None means the parameters' own.
      matrices: rules for kernels; see :data:`DEFAULT_MATRICES`.
      layer_types: rules, or a function from a tree to labels; None means the default rules.
      stacked: which containers hold stacked leaves; detected in the leaves of the group alone, so
        name them where attention or MLPs come without the rest.

    Returns:
      The transformation; its state is an ``optax.contrib.MuonState``, with one count.

    Raises:
      ValueError: a number lies outside its range; at ``init``, a parameter is no matrix.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_strat import scale_by_muon
      >>> tx = scale_by_muon(rms=None)
      >>> gradients = {'mlp': jnp.diag(jnp.array([1.0, 10.0]))}
      >>> updates, _ = tx.update(gradients, tx.init(gradients))
      >>> bool(jnp.allclose(updates['mlp'], jnp.eye(2), atol=0.35))
      True

    References:
      Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024. Liu et al., Muon
      is scalable for LLM training, 2025 (arXiv:2502.16982), for the size of the updates.
    """
    _checks.check_decay("beta", beta)
    _checks.check_count("ns_steps", ns_steps)
    _checks.check_not_negative("eps", eps)
    if rms is not None:
        _checks.check_positive("rms", rms)
    mu_dtype = _checks.floating_dtype("mu_dtype", mu_dtype)

    def axes(tree: Any) -> list[_matrices.Axes]:
        found = _matrices.matrix_axes(tree, matrices, layer_types, stacked)
        vectors = [
            "/".join(names)
            for (names, _), known in zip(_paths.named_leaves(tree), found, strict=True)
            if known is None
        ]
        if vectors:
            raise ValueError(
                f"Muon is for matrices, and these parameters are none:\n"
                f"  {_layer_types.listed(vectors)}\n"
                "Give them to another group by a rule, such as layer_types="
                f"((r'{vectors[0].rpartition('/')[2]}', 'norm'), *DEFAULT_RULES)."
            )
        return [known for known in found if known is not None]

    def dimensions(tree: Any) -> Any:
        numbers = [contrib.MuonDimensionNumbers(*sides) for sides in axes(tree)]
        return jax.tree.unflatten(jax.tree.structure(tree), numbers)

    def sized(u: jax.Array, g: jax.Array, sides: contrib.MuonDimensionNumbers) -> jax.Array:
        fan_in, fan_out = (math.prod(u.shape[axis] for axis in side) for side in sides)
        return (u if rms is None else u * (rms * max(fan_in, fan_out) ** 0.5)).astype(g.dtype)

    muon = contrib.scale_by_muon(
        ns_steps=ns_steps,
        beta=beta,
        eps=eps,
        mu_dtype=mu_dtype,
        nesterov=nesterov,
        weight_dimension_numbers=dimensions,
    )

    def init(params: Any) -> Any:
        axes(params)
        return muon.init(params)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        del params, extra_args
        directions, state = _on_automatic_axes(muon.update)(updates, state)
        return jax.tree.map(sized, directions, updates, dimensions(updates)), state

    return optax.GradientTransformationExtraArgs(init, update)


def _on_automatic_axes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Leaves shardings inside a function to the compiler; its results are sharded as its arguments.

    On a mesh with explicit axes a product of two sharded dimensions, or a reshape, is an error.
    """

    def call(*arguments: Any) -> Any:
        if AxisType.Explicit not in jax.sharding.get_abstract_mesh().axis_types:
            return function(*arguments)
        specs = jax.tree.map(lambda x: jax.typeof(x).sharding.spec, arguments)
        return jax.sharding.auto_axes(function, out_sharding=specs)(*arguments)

    return call
