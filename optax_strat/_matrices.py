"""Where the matrices are: which dimensions of a kernel are its inputs, and which its outputs.

Rules for matrices, such as Muon's, want to know. The kernels of attention have two dimensions on
one side of the matrix ([D, N, H] maps D to N·H), and a stack of layers or experts is many matrices.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from optax import contrib

from optax_strat import _layer_types, _layout, _paths
from optax_strat._layer_types import LayerType

MatrixRules = Sequence[tuple[str, str]]
"""Pairs of a regular expression over path segments, as in rules for layer types, and one letter per
dimension, but for that of stacked layers: ``i`` input, ``o`` output, ``b`` many matrices."""

DEFAULT_MATRICES: tuple[tuple[str, str], ...] = (
    (r"[^/]*(mlp|moe|expert|ffn?|feed_?forward)[^/]*", "bio"),
    # What leads out of attention sums over heads and their dimensions: [N, H, D].
    (r"(attn_)?out(_proj)?|wo|o_proj|attn_vec_einsum", "iio"),
    # Gemma's heads come first: [N, D, H], and [2, K, D, H] for keys and values together.
    (r"q_einsum", "oio"),
    (r"q?kv_einsum", "boio"),
    # MaxText's queries, keys and values together: [D, 3, N, H].
    (r"qkv_proj", "iboo"),
    # PyTorch's layout, which Equinox shares.
    (r"weight$", "oi"),
)
"""Rules for kernels whose letters are not ``io``, nor ``ioo`` in attention, nor ``io`` at the end
of any others. The first rule that matches, with as many letters as dimensions, wins."""


class Axes(NamedTuple):
    """The axes of a leaf that are the two sides of its matrices; the others count matrices."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def matrix_axes(
    tree: Any,
    rules: MatrixRules = DEFAULT_MATRICES,
    layer_types: _layer_types.LayerTypes = None,
    stacked: _layout.Stacked = None,
) -> list[Axes | None]:
    """The matrices in each leaf of a tree; None for norms, biases and what has one dimension."""
    compiled = _compile(rules)
    labels = jax.tree.leaves(_layer_types.labeler(layer_types, unmatched="other")(tree))
    found: list[Axes | None] = []
    for (names, x), label, leaf in zip(
        _paths.named_leaves(tree), labels, _layout.layout(tree, stacked), strict=True
    ):
        shape = _layout.shape_of(x)
        dims = [dim for dim in range(len(shape)) if dim != leaf.axis]
        if len(dims) < 2 or label == LayerType.norm:
            found.append(None)
            continue
        letters = _letters("/".join(names), label, len(dims), compiled)
        if letters is None:
            raise ValueError(
                f"Which dimensions of {leaf.name!r}, of the shape {shape}, form a matrix is not "
                f"known; add a rule with {len(dims)} letters of i, o and b, such as "
                f"matrices=(({names[-1]!r}, '{'b' * (len(dims) - 2)}io'), *DEFAULT_MATRICES)."
            )
        inputs, outputs = (
            tuple(dim for dim, letter in zip(dims, letters, strict=True) if letter == side)
            for side in "io"
        )
        found.append(Axes(inputs, outputs))
    return found


def muon_dimensions(
    params: Any,
    *,
    matrices: MatrixRules = DEFAULT_MATRICES,
    layer_types: _layer_types.LayerTypes = None,
    stacked: _layout.Stacked = None,
) -> Any:
    """Tells ``optax.contrib.muon`` which parameters of a language model are hidden matrices.

    Those are the kernels of attention and MLPs: each layer of a stack and each expert by itself,
    and an attention kernel [D, N, H] as the matrix from D to N·H that it is. The answer for all
    others is None, which leaves them to Adam.

    Args:
      params: a tree of parameters, gradients or shapes.
      matrices: rules for kernels; see :data:`DEFAULT_MATRICES`.
      layer_types: rules, or a function from a tree to labels; None means the default rules.
      stacked: which containers hold stacked leaves.

    Returns:
      A tree of the same structure, of ``optax.contrib.MuonDimensionNumbers`` and None.

    Raises:
      ValueError: a rule is no rule, or a kernel has more dimensions than any rule for it.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from optax_strat import muon_dimensions
      >>> params = {'layers': {'attn': {'query': jnp.ones((2, 8, 2, 4))}}, 'head': jnp.ones((8, 9))}
      >>> dimensions = muon_dimensions(params)
      >>> dimensions['layers']['attn']['query']
      MuonDimensionNumbers(reduction_axis=(1,), output_axis=(2, 3))
      >>> dimensions['head'] is None
      True
      >>> tx = optax.contrib.muon(0.02, muon_weight_dimension_numbers=muon_dimensions)
    """
    labels = jax.tree.leaves(_layer_types.labeler(layer_types, unmatched="other")(params))
    dimensions = [
        contrib.MuonDimensionNumbers(*axes) if axes and label in ("attention", "mlp") else None
        for axes, label in zip(
            matrix_axes(params, matrices, layer_types, stacked), labels, strict=True
        )
    ]
    return jax.tree.unflatten(jax.tree.structure(params), dimensions)


def _letters(
    path: str, label: str, dims: int, rules: Sequence[tuple[re.Pattern[str], str]]
) -> str | None:
    """A letter for each dimension of a kernel but that of stacked layers; None if unknown."""
    for pattern, letters in rules:
        if len(letters) == dims and pattern.search(path):
            return letters
    if label == LayerType.attention:
        return {2: "io", 3: "ioo"}.get(dims)
    return "b" * (dims - 2) + "io"


def _compile(rules: MatrixRules) -> list[tuple[re.Pattern[str], str]]:
    compiled = []
    for rule in rules:
        try:
            pattern, letters = rule
            compiled.append((_paths.expression(pattern), letters))
            valid = {"i", "o"} <= set(letters) <= {"i", "o", "b"}
        except (ValueError, TypeError, re.error):
            valid = False
        if not valid:
            raise ValueError(
                "A rule for matrices must be a pair of a regular expression and letters of i, o "
                f"and b, with an i and an o among them, not {rule!r}."
            )
    return compiled
