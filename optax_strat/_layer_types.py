"""Layer types: which part of a language model a parameter belongs to, read off its path.

"We define different learning rate multipliers α_l for each layer type l" (Aardvark, 4.1). The
papers name four types (embeddings, attention, MLP, output head). Two more make the naming complete:
``norm`` for what rescales or shifts (normalisation scales and every bias), and ``other`` for
parameters that have no names, such as a bare array.
"""

import enum
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import jax

from optax_strat import _checks, _paths


class LayerType(enum.StrEnum):
    """The types a layer can have. A member equals its name: ``LayerType.mlp == 'mlp'``."""

    embedding = "embedding"
    """Token, position and segment embeddings. A tied output head is one of these."""
    attention = "attention"
    """Query, key, value and output projections."""
    mlp = "mlp"
    """Feed-forward layers, gates, routers and experts."""
    head = "head"
    """The output head, where it has parameters of its own."""
    norm = "norm"
    """Normalisation scales and offsets, and every bias: what rescales or shifts."""
    other = "other"
    """Parameters without a name, and what ``unmatched='other'`` lets through."""


Rule = tuple[str, str]
"""A regular expression over path segments, and the layer type of the paths that it matches."""

LayerTypes = Sequence[Rule] | Callable[[Any], Any] | None
"""How a transformation finds layer types: rules, a function from a tree to labels, or the default.
Labels as a ready-made tree are refused: they would have to fit gradients, parameters and masked
trees alike."""

Unmatched = Literal["error", "other"]

DEFAULT_RULES: tuple[Rule, ...] = (
    # What rescales or shifts comes first: `post_attention_layernorm` is a norm, not attention.
    (r"(bias|(?<!lora/)b|[^/]+_bias)$", "norm"),
    (r"[^/]*norm\d*(_[^/]*)?|ln\d*(_[^/]*)?|[^/]+_ln(_?\d+|_f)?|rms(_?\d+)?", "norm"),
    (r"(scale|offset|gamma|beta)$", "norm"),
    # An MLP's own output, in BERT's naming, before `output` can mean the head.
    (r"layers?/\d+/(intermediate|output)", "mlp"),
    # Attention before the head and the embedding: relative position tables live inside it.
    (r"[^/]*att(ention|n)[^/]*|mha(_?\d+)?", "attention"),
    (r"([qkvo]|query|key|value|qkv)_proj|query|key|value|w[qkv]|w?qkv", "attention"),
    (r"([^/]+_)?head(_?\d+)?|embed_out|unembed[^/]*|output|readout", "head"),
    (r"logits?(_?dense|_[^/]*)?|(vocab|output|logits)_(proj|projection|layer)", "head"),
    (
        r"[^/]*embed[^/]*|[^/]*_emb|emb|wte|wpe|pos(ition)?_?enc[^/]*|cls(_token)?|probe",
        "embedding",
    ),
    (r"[^/]*mlp[^/]*|[^/]*feed_?forward[^/]*|ffn?(_[^/]*)?|[^/]*moe[^/]*|[^/]*expert[^/]*", "mlp"),
    (r"(gate|up|down|gate_up)_proj|router|c_fc|fc_?(in|out|\d+)|wi(_\d+)?|swiglu|glu", "mlp"),
)
"""Rules for Flax (NNX, Linen), Haiku, Equinox, MaxText, T5X, big_vision, and Hugging Face's names.

A rule matches when its expression matches one or more whole, consecutive segments of the lower-case
path (``'mlp/gate'`` spans two, ``$`` ties it to the last). The first rule that matches wins. Your
own go behind to add what no rule knows, ``rules=(*DEFAULT_RULES, ('adapter', 'mlp'))``, or in front
to overrule: ``rules=(('mlp/gate', 'other'), *DEFAULT_RULES)``.

What may surprise: routers and experts are ``mlp``; the two matrices of a LoRA are what the layer
that they adapt is; relative position tables inside attention are ``attention``. What names do not
tell is an error: Haiku's unnamed ``linear_3``, a state-space ``mixer``, a convolutional stem.
"""


def layer_types(
    params: Any, rules: Sequence[Rule] = DEFAULT_RULES, unmatched: Unmatched = "error"
) -> Any:
    """Labels every parameter with the type of its layer.

    Args:
      params: a tree of parameters, gradients or shapes: dicts, lists, dataclasses, Flax NNX states,
        Linen variables (boxed or not), Equinox modules, Haiku dicts. Only the paths are read.
      rules: pairs of a regular expression over path segments and a layer type; the first match
        wins. See :data:`DEFAULT_RULES`.
      unmatched: what to do with a parameter that has a name but no rule: ``'error'``, or
        ``'other'`` to give it that type. Parameters without any name (a bare array, lists and
        tuples) are always ``'other'``.

    Returns:
      A tree of the same structure whose leaves are strings, the values of :class:`LayerType`.

    Raises:
      ValueError: no rule matches a named parameter (all such paths are listed), a rule names an
        unknown layer type, or a rule is no regular expression.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_strat import DEFAULT_RULES, layer_types
      >>> kernel = jnp.ones((4, 4))
      >>> params = {'embed': kernel, 'layers': [{'attn': {'query': kernel}, 'mlp': kernel}]}
      >>> layer_types(params)
      {'embed': 'embedding', 'layers': [{'attn': {'query': 'attention'}, 'mlp': 'mlp'}]}

      A name that no rule knows is an error; one line teaches it:

      >>> layer_types({'adapter': kernel}, rules=(*DEFAULT_RULES, ('adapter', 'mlp')))
      {'adapter': 'mlp'}
    """
    _checks.check_choice("unmatched", unmatched, ("error", "other"))
    compiled = _compile(rules)
    missed: list[str] = []

    def label(path: tuple[Any, ...], _: Any) -> str:
        names = _paths.segments(path)
        if all(_paths.is_index(name) for name in names):
            return LayerType.other.value
        joined = "/".join(names)
        for pattern, layer_type in compiled:
            if pattern.search(joined):
                return layer_type
        missed.append(joined)
        return LayerType.other.value

    labels = jax.tree_util.tree_map_with_path(label, params)
    if missed and unmatched == "error":
        raise ValueError(
            "No rule gives a layer type to these parameters:\n"
            f"  {listed(missed)}\n"
            f"Add a rule, such as rules=(*DEFAULT_RULES, (r'{example(missed)}', 'mlp')) "
            "(an optimizer takes it as layer_types=...), or pass unmatched='other'."
        )
    return labels


def listed(paths: Iterable[str]) -> str:
    """Paths for an error message, one a line, numbered layers joined."""
    names = list(paths)
    return "\n  ".join(name for name, _ in _paths.fold(names, [None] * len(names)))


def example(paths: Sequence[str]) -> str:
    """An expression for the first path: the name of the module around it, or else its own."""
    modules = []
    for path in paths:
        *around, own = path.split("/")
        modules.append([own, *(name for name in around if not _paths.is_index(name))][-1])
    first = modules[0]
    stem = re.sub(r"_?\d+$", "", first)
    is_numbered = any(re.fullmatch(rf"{re.escape(stem)}_?\d+", name) for name in modules)
    return re.escape(stem) + (r"(_?\d+)?" if is_numbered else "")


def check_layer_types(what: str, types: Mapping[str, Any] | Sequence[str]) -> None:
    """Raises ValueError where a name is no layer type."""
    for name in types:
        if name not in LayerType.__members__:
            allowed = ", ".join(LayerType)
            raise ValueError(f"{what} has the unknown layer type {name!r}; allowed are {allowed}.")


def labeler(source: LayerTypes = None, unmatched: Unmatched = "error") -> Callable[[Any], Any]:
    """The function from a tree to its labels that an optimizer's ``layer_types`` argument means."""
    _checks.check_choice("unmatched", unmatched, ("error", "other"))
    if callable(source):
        return lambda tree: _checked(source(tree), tree)
    rules = DEFAULT_RULES if source is None else tuple(source)
    _compile(rules)  # so that a bad rule is refused where it is written, not at the first update
    return lambda tree: layer_types(tree, rules, unmatched)


def _checked(labels: Any, tree: Any) -> Any:
    """The labels that a user's function made, if they can be such."""
    found, wanted = jax.tree.leaves(labels), jax.tree.leaves(tree)
    if len(found) != len(wanted):
        raise ValueError(
            f"The layer_types function must give each of {len(wanted)} parameters a layer type, "
            f"but it gave {len(found)}."
        )
    check_layer_types("What the layer_types function gave", found)
    return labels


def _compile(rules: Sequence[Rule]) -> list[tuple[re.Pattern[str], str]]:
    compiled = []
    for rule in rules:
        try:
            pattern, layer_type = rule
            expression = _paths.expression(pattern)
        except (ValueError, TypeError, re.error) as error:
            raise ValueError(
                f"A rule must be a pair of a regular expression and a layer type, not {rule!r}."
            ) from error
        check_layer_types(f"The rule {rule!r}", (layer_type,))
        compiled.append((expression, str(layer_type)))
    return compiled
