"""Where the matrices are: which dimensions of a kernel are its inputs, and which its outputs.

Rules for matrices, such as Muon's, want to know. The kernels of attention have two dimensions on
one side of the matrix ([D, N, H] maps D to N·H), and a stack of layers or experts is many matrices.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import optax
from optax import contrib

from optax_strat import _layer_types, _layout, _paths
from optax_strat._layer_types import LayerType
from optax_strat._layers import Layers, LayersLike, as_layers

MatrixRules: TypeAlias = Sequence[tuple[str, str]]
"""Pairs of a regular expression over path segments, as in rules for layer types, and one letter per
dimension, but for that of stacked layers: ``i`` input, ``o`` output, ``b`` many matrices."""

_INPUTS = (
    r"(query|key|value|qkv|kv|[qkv])(_?\d+|_proj(ection)?|(_[ab])(_proj)?)?"
    r"|w_?(qkv|kv|[qkv])(_[ab])?|query_key_value|to_(qkv|kv|[qkv])"
)
_OUTPUTS = r"(attn_|attention_)?(out(put)?|o)(_?\d+|_proj(ection)?)?|w_?o|to_out|attn_vec_einsum"
_EXPERTS = r"(?![^/]*(layer|encoder|decoder|model|shared))[^/]*(moe|expert)[^/]*(/[^/]+)*"

_ATTENTION: tuple[tuple[str, str], ...] = (
    # Gemma's heads come first: [N, D, H], and [2, K, D, H] for keys and values together.
    (r"[qk]_einsum", "oio"),
    (r"q?kv_einsum", "boio"),
    # Queries, keys and values in one, where there are as many of each: [D, 3, N, H].
    (r"qkv_proj|c_attn", "iboo"),
    # MaxText's block-diagonal output of DeepSeek 4: [groups, H, R].
    (r"o_a_proj", "bio"),
    # Haliax has PyTorch's layout with more dimensions, outputs first: [D, N, H], [K, G, H, D].
    (rf"({_OUTPUTS})/weight", "oii"),
    (rf"({_INPUTS})/weight", "ooi"),
    (rf"({_INPUTS})/weight", "oooi"),
    # What leads out of attention sums over heads and their dimensions: [N, H, D].
    (rf"{_OUTPUTS}|c_proj", "iio"),
    (_INPUTS, "ioo"),
)
_MLP: tuple[tuple[str, str], ...] = (
    (rf"{_EXPERTS}/weight", "boi"),
    (_EXPERTS, "bio"),
    (_EXPERTS, "bbio"),
    # MaxText's gate and up in one: [D, 2, F].
    (r"wi(_fused)?/kernel", "ibo"),
    # Gemma's, [2, D, F], and arrays without a module of their own.
    (r"[^/]*einsum[^/]*", "bio"),
    (rf"(?!({'|'.join(_layer_types.ARRAYS)})(/|$))[^/]+$", "bio"),
    (rf"(?!({'|'.join(_layer_types.ARRAYS)})(/|$))[^/]+$", "bbio"),
)
DEFAULT_MATRICES: tuple[tuple[str, str], ...] = (
    *_ATTENTION,
    *_MLP,
    # PyTorch's layout, which Equinox shares.
    (r"weight", "oi"),
)
"""Rules for kernels whose letters are not ``io``: those of attention, those of MLPs, and others.

The first rule that matches, with as many letters as dimensions, wins, and yours are asked before
these: ``matrices=(('query', 'ibo'), *DEFAULT_MATRICES)`` makes a matrix of each head. What a kernel
is, attention or MLP, its innermost name that tells decides, as in :data:`DEFAULT_RULES`, whatever
types you call it by: ``moe_layers/self_attention/out/kernel`` is attention's. A kernel of three
dimensions or more that no rule knows is an error.

Convolutions, tables of relative positions, norms and biases are no matrices unless a rule of yours
matches them. The order of two dimensions matters to ``rms='jordan'`` alone, and names do not always
tell: Hugging Face's GPT-2 has weights ``io``, Gemma its ``gating_einsum`` as ``boi``.
"""

_NO_MATRICES = _paths.expression(
    r"(?![^/]*att)[^/]*conv[^/]*|[^/]*rel(ative|_?pos|_)[^/]*(bias|table|emb|pos)[^/]*"
    r"|[^/]*_(scale|beta)|sinks|a_log"
)
_HIDDEN = (LayerType.attention, LayerType.mlp)


class Axes(NamedTuple):
    """The axes of a leaf that are the two sides of its matrices; the others count matrices."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def matrix_axes(
    tree: Any,
    rules: MatrixRules = DEFAULT_MATRICES,
    layers: Layers = Layers(),
    *,
    hidden: bool = False,
) -> list[Axes | None]:
    """The matrices in each leaf of a tree; None for norms, biases and what else is no matrix.

    Args:
      tree: parameters, gradients or shapes.
      rules: see :data:`DEFAULT_MATRICES`.
      layers: how layers and their types are found.
      hidden: whether None is the answer for all but the hidden layers, attention and MLPs.
    """
    own = _compile([rule for rule in rules if rule not in DEFAULT_MATRICES])
    default = [rule for rule in DEFAULT_MATRICES if rule in rules]
    labels = jax.tree.leaves(layers.labels(tree, unmatched="other"))
    found: list[Axes | None] = []
    for (names, x), label, leaf in zip(
        _paths.named_leaves(tree), labels, layers.layout(tree), strict=True
    ):
        shape = _layout.shape_of(x)
        dims = [dim for dim in range(len(shape)) if dim != leaf.axis]
        kernel = _kernel(names, label)
        asked = [letters for pattern, letters in own if pattern.search("/".join(names))]
        letters = next((letters for letters in asked if len(letters) == len(dims)), None)
        said = letters is not None
        if len(dims) < 2 or not (kernel.is_matrix(said) and (kernel.is_hidden(said) or not hidden)):
            found.append(None)
            continue
        if asked and not said:
            raise ValueError(
                f"A rule for matrices gives {leaf.name!r} the letters {asked[0]!r}, but without "
                f"that of its layers it has {len(dims)} dimensions, {list(shape)}: add a rule with "
                "as many letters, or make that one match less."
            )
        letters = letters or kernel.letters(len(dims), default)
        if letters is None:
            raise ValueError(
                f"Which dimensions of {leaf.name!r}, of the shape {shape}, form a matrix is not "
                f"known; add a rule with {len(dims)} letters of i, o and b, such as "
                f"matrices=(({names[-1]!r}, '{'b' * (len(dims) - 2)}io'), *DEFAULT_MATRICES), or "
                "name the container of its layers, if it is stacked: layers=Layers(stacked=...)."
            )
        inputs, outputs = (
            tuple(dim for dim, letter in zip(dims, letters, strict=True) if letter == side)
            for side in "io"
        )
        found.append(Axes(inputs, outputs))
    return found


def muon_dimensions(
    params: optax.Params,
    *,
    matrices: MatrixRules = DEFAULT_MATRICES,
    layers: LayersLike = Layers(),
) -> optax.Params:
    """Tells ``optax.contrib.muon`` which parameters of a language model are hidden matrices.

    Those are the kernels of attention and MLPs: each layer of a stack and each expert by itself,
    and an attention kernel [D, N, H] as the matrix from D to N·H that it is. The answer for all
    others is None, which leaves them to Adam. The tree that comes back also shows what
    :func:`scale_by_muon` will do.

    Args:
      params: a tree of parameters, gradients or shapes.
      matrices: rules for kernels, yours before the default ones; see :data:`DEFAULT_MATRICES`.
      layers: how layers and their types are found; see :class:`Layers`. Where a type has a name of
        your own ('vision'), a kernel's own names tell whether it is attention or an MLP; if they
        do not, it is hidden where a rule of yours in ``matrices`` matches it.

    Returns:
      A tree of the same structure, of ``optax.contrib.MuonDimensionNumbers`` and None.

    Raises:
      ValueError: a rule is no rule, or no rule knows a kernel of three dimensions or more.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from optax_strat import DEFAULT_MATRICES, muon_dimensions
      >>> params = {'layers': {'attn': {'query': jnp.ones((2, 8, 2, 4))}}, 'head': jnp.ones((8, 9))}
      >>> dimensions = muon_dimensions(params)
      >>> dimensions['layers']['attn']['query']
      MuonDimensionNumbers(reduction_axis=(1,), output_axis=(2, 3))
      >>> dimensions['head'] is None
      True
      >>> tx = optax.contrib.muon(0.02, muon_weight_dimension_numbers=muon_dimensions)

      A matrix for each head, by a rule with a letter for each of [D, N, H]:

      >>> muon_dimensions(params, matrices=(('query', 'ibo'), *DEFAULT_MATRICES))['layers']
      {'attn': {'query': MuonDimensionNumbers(reduction_axis=(1,), output_axis=(3,))}}
    """
    dimensions = [
        None if axes is None else contrib.MuonDimensionNumbers(*axes)
        for axes in matrix_axes(params, matrices, as_layers(layers), hidden=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(params), dimensions)


class _Kernel(NamedTuple):
    """What the names of a leaf say of it."""

    path: str
    near: str
    """The path from the innermost name on that tells a type: what stands around it says nothing."""
    named: str | None
    """The type by its names."""
    label: str
    """The type that the user gives."""

    def is_matrix(self, said: bool) -> bool:
        """Whether it can be a matrix; a user's rule for matrices may have said so."""
        if self.label in (LayerType.norm, LayerType.bias):
            return False
        vector = self.named in (LayerType.norm, LayerType.bias)
        return said or not (vector or _NO_MATRICES.search(self.near))

    def is_hidden(self, said: bool) -> bool:
        """Whether it is attention or an MLP; a user's rule for matrices may have said so."""
        if self.label in _HIDDEN:
            return True
        if self.label in tuple(LayerType) and self.label != LayerType.other:
            return False
        return said or (self.label != LayerType.other and self.named in _HIDDEN)

    def letters(self, dims: int, rules: MatrixRules) -> str | None:
        """A letter for each dimension but that of stacked layers, by default rules."""
        kind = self.named if self.named in _HIDDEN else self.label
        for rule in rules:
            pattern, letters = rule
            if (rule in _ATTENTION and kind != LayerType.attention) or (
                rule in _MLP and kind != LayerType.mlp
            ):
                continue
            # Experts are seen from further off than the names that make a kernel attention's.
            where = self.path if rule in _MLP else self.near
            if len(letters) == dims and _paths.expression(pattern).search(where):
                return letters
        return "io" if dims == 2 else None


def _kernel(names: tuple[str, ...], label: str) -> _Kernel:
    match = _layer_types.match(names)
    near = "/".join(names[match.end - 1 :] if match else names)
    return _Kernel("/".join(names), near, match.type if match else None, label)


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
