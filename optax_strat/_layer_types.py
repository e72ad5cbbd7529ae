"""Layer types: which part of a model a parameter belongs to, read off its path.

"We define different learning rate multipliers α_l for each layer type l" (Aardvark, 4.1). The
papers name four types (embeddings, attention, MLP, output head). Three more make the naming
complete: ``norm`` and ``bias`` for what rescales and shifts, and ``other`` for parameters that have
no names, such as a bare array. Rules of your own may give any other name.
"""

import difflib
import enum
import functools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from optax_strat import _paths


class LayerType(enum.StrEnum):
    """The types that :data:`DEFAULT_RULES` give. A member equals its name."""

    embedding = "embedding"
    """Token, position and segment embeddings. A tied output head is one of these."""
    attention = "attention"
    """Query, key, value and output projections."""
    mlp = "mlp"
    """Feed-forward layers, gates, routers and experts."""
    head = "head"
    """The output head, where it has parameters of its own."""
    norm = "norm"
    """Normalization scales and offsets: what rescales."""
    bias = "bias"
    """Every bias, of a normalization too."""
    other = "other"
    """Parameters without a name, and what ``unmatched='other'`` lets through."""


Rule = tuple[str, str]
"""A regular expression over path segments, and the layer type of the paths that it matches."""

DEFAULT_RULES: tuple[Rule, ...] = (
    (r"(bias|(?<!lora/)b|[^/]+_bias)$", "bias"),
    # `post_attention_layernorm` is a norm, not attention; a linear layer inside a norm is neither.
    (
        r"([^/]*norm(alization)?_?\d*(_[^/]*)?|ln_?\d*(_[^/]*)?|[^/]+_ln(_?\d+|_f)?|rms(_?\d+)?"
        r"|bn_?\d*)(?=(/[^/]+)?$)",
        "norm",
    ),
    (r"([^/]+_)?(scale|offset|gamma|beta)(_\d+)?(?=(/weights)?$)", "norm"),
    (r"layer_?scale_?\d*", "norm"),
    # What attention has inside it: its output, heads as modules, relative and rotary positions.
    (
        r"([^/]*att(ention|n)|mha)(_?\d+)?/([^/]+/)*"
        r"(output[^/]*|[^/]*heads?(_?\d+)?|[^/]*r(el|ot)[^/]*(/embedding)?)",
        "attention",
    ),
    # An MLP's own output, in BERT's naming, before `output` can mean the head.
    (r"layers?[/_]\d+/(intermediate|output)", "mlp"),
    (r"[^/]*att(ention|n)[^/]*|att_[^/]*|mha(_?\d+)?|to_(q|k|v|qkv|kv|out)", "attention"),
    (r"([qkvo]|query|key|value|qkv)_proj|query|key|value|w[qkv]|w?qkv", "attention"),
    (r"([^/]+_)?head(_?\d+)?|embed_out|unembed[^/]*|output(_layer)?|readout|classifier", "head"),
    (r"logits?(_?dense|_[^/]*)?|(vocab|logits)_(proj|projection|layer)", "head"),
    (r"cls/(predictions|seq_relationship)", "head"),
    (
        r"[^/]*embed[^/]*|[^/]*_emb|emb|wte|wpe|pos(ition)?_?enc[^/]*|cls|[^/]*_tokens?|probe",
        "embedding",
    ),
    (r"[^/]*mlp[^/]*|[^/]*feed_?forward[^/]*|ffn?(_[^/]*)?|[^/]*moe[^/]*|[^/]*expert[^/]*", "mlp"),
    (r"(gate|up|down|gate_up)_proj|router|c_fc|fc_?(in|out|\d+)|wi(_\d+)?|swiglu|glu", "mlp"),
    (r"dense(relu|gated[^/]*)dense", "mlp"),
)
"""Rules for Flax (NNX, Linen), Haiku, Equinox, MaxText, T5X, big_vision, and Hugging Face's names.

A rule matches when its expression matches one or more whole, consecutive segments of the path, in
upper or lower case (``'mlp/gate'`` spans two, ``$`` ties it to the last). Of all matches the one
that ends innermost decides, and of those that end at the same segment the first rule's:
``embedding_model/layers/0/mlp/up`` is an mlp.

Your own rules go in front of these to overrule them, ``rules=(('adapter', 'adapter'),
*DEFAULT_RULES)``, or behind to add what they do not know, ``rules=(*DEFAULT_RULES, ('conv\\d+',
'conv'))``: what a rule in front matches anywhere is never asked of these, and a rule behind is only
asked where none of these matches.

What may surprise: routers and experts are ``mlp``; the two matrices of a LoRA are what the layer
that they adapt is; relative position tables inside attention are ``attention``. What names do not
tell is an error: Haiku's unnamed ``linear_3``, a state-space ``mixer``, a convolutional stem.
"""


class Match(NamedTuple):
    """What rules say of a path."""

    type: str
    end: int
    """The number of segments up to where the match ends."""


def match(names: Sequence[str], rules: tuple[Rule, ...] = DEFAULT_RULES) -> Match | None:
    """The layer type of a path; None where no rule matches."""
    last = len(names)
    while last > 1 and _paths.is_index(names[last - 1]):  # an array in a wrapper, or one of a list
        last -= 1
    return _match("/".join(names[:last]), rules)


@functools.lru_cache(maxsize=2**16)  # The same paths are asked for many times a trace.
def _match(path: str, rules: tuple[Rule, ...]) -> Match | None:
    starts = [0, *(slash.start() for slash in re.finditer("/", path))]
    for tier in _tiers(rules):
        best: Match | None = None
        for expression, layer_type in tier:
            spans = [expression.match(path, start) for start in starts]
            end = max((path.count("/", 0, span.end()) + 1 for span in spans if span), default=0)
            if end > (best.end if best else 0):
                best = Match(layer_type, end)
        if best:
            return best
    return None


@functools.lru_cache
def _tiers(rules: tuple[Rule, ...]) -> tuple[tuple[tuple[re.Pattern[str], str], ...], ...]:
    """A user's rules before the default ones, these, and a user's rules behind them, compiled."""
    default = [index for index, rule in enumerate(rules) if rule in DEFAULT_RULES]
    first, last = (default[0], default[-1] + 1) if default else (len(rules), len(rules))
    return tuple(
        tuple((_paths.expression(pattern), layer_type) for pattern, layer_type in tier)
        for tier in (rules[:first], rules[first:last], rules[last:])
    )


def check_rules(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """The rules as a tuple; raises ValueError for what is no rule."""
    checked = []
    for rule in rules:
        try:
            pattern, layer_type = rule
            _paths.expression(pattern)
        except (ValueError, TypeError, re.error) as error:
            raise ValueError(
                "A rule must be a pair of a regular expression and a layer type, not "
                f"{rule!r}{f': {error}' if isinstance(error, re.error) else ''}."
            ) from error
        if not isinstance(layer_type, str) or not layer_type:
            raise ValueError(f"The layer type of a rule must be a name, but in {rule!r} it is not.")
        checked.append((pattern, str(layer_type)))
    return tuple(checked)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """The distinct names, those of :class:`LayerType` first and in its order."""
    distinct = dict.fromkeys(names)
    return tuple(dict.fromkeys([kind.value for kind in LayerType if kind in distinct]) | distinct)


def unmatched_error(paths: Sequence[str]) -> ValueError:
    """The error for parameters that no rule matches, with rules for them to copy."""
    rules = _rules_for(paths)
    raw = ", ".join(f"(r{pattern!r}, {name!r})".replace("\\\\", "\\") for pattern, name in rules)
    return ValueError(
        "No rule gives a layer type to these parameters:\n"
        f"  {listed(paths)}\n"
        "Name their types yourself, in any words, such as\n"
        f"  layers=Layers(rules=(*DEFAULT_RULES, {raw}))\n"
        "or let all of them be 'other' with layers=Layers(unmatched='other')."
    )


def listed(paths: Iterable[str]) -> str:
    """Paths for an error message, one a line, numbered layers joined."""
    names = list(paths)
    return "\n  ".join(name for name, _ in _paths.fold(names, [None] * len(names)))


def suggestion(name: object, known: Iterable[str]) -> str:
    """``; did you mean 'attention'?``, where a known name is close."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _rules_for(paths: Iterable[str]) -> list[Rule]:
    """Rules by the innermost names that are no names of arrays, each with its own name as type."""
    modules: dict[str, set[str]] = {}
    for path in paths:
        names = [name for name in path.split("/") if not _paths.is_index(name)]
        module = ([name for name in names if name.lower() not in ARRAYS] or names)[-1]
        modules.setdefault(re.sub(r"_?\d+$", "", module) or module, set()).add(module)
    return [
        (
            re.escape(stem) + (r"(_?\d+)?" if found != {stem} else ""),
            re.sub(r"\W", "_", stem).lower(),
        )
        for stem, found in modules.items()
    ]


ARRAYS = ("kernel", "weight", "w", "weights", "value", "table")
"""What libraries call the array of a module: names that say nothing of its type."""
