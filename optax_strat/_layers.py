"""What a tree's layers are: the type of each, and which leaves are stacked.

Every transformation here that looks at layers takes ``layers=``, so that all parts of a chain can
be told the same thing in one word.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeGuard

import jax
import optax

from optax_strat import _checks, _layer_types, _layout, _paths
from optax_strat._layer_types import DEFAULT_RULES, LayerType, Rule

LabelFunction: TypeAlias = Callable[[optax.Params], optax.Params]
"""From a tree to labels for its leaves, as for ``optax.multi_transform``."""

LabelTree: TypeAlias = Mapping[Any, Any] | Sequence[Any] | str
"""Labels in the structure of the parameters, or of a part of it: a label for a module is that of
all its parameters."""


@dataclasses.dataclass(frozen=True)
class Layers:
    """How layers are found in a tree of parameters, for everything that takes ``layers=``.

    A function from a tree to labels, or a tree of labels, may stand wherever a ``Layers`` may, and
    means ``Layers(rules=...)`` of it.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_strat import DEFAULT_RULES, Layers, describe
      >>> mine = Layers(rules=(('router', 'router'), *DEFAULT_RULES), stacked={'layers': 1})
      >>> params = {'layers': {'mlp': {'up': jnp.ones((4, 3, 8)), 'router': jnp.ones((4, 3, 2))}}}
      >>> print(describe(params, layers=mine))
      path               shape  type    layers  multiplier  decay  share
      -----------------  -----  ------  ------  ----------  -----  -----
      layers/mlp/router  4×3×2  router       3           1  yes    20.0%
      layers/mlp/up      4×3×8  mlp          3         1.2  yes    80.0%
      -----------------  -----  ------  ------  ----------  -----  -----
      120 parameters in 2 arrays, 6 layers
    """

    rules: Sequence[Rule] | LabelFunction | LabelTree = DEFAULT_RULES
    """Pairs of a regular expression over path segments and a layer type (see
    :data:`DEFAULT_RULES`), a function from a tree to labels, or a tree of labels."""
    unmatched: Literal["error", "other"] = "error"
    """What becomes of a parameter that has a name and no rule: an error, or the type ``'other'``.
    Parameters without any name (a bare array, lists and tuples) are always ``'other'``."""
    stacked: Sequence[str] | Mapping[str, int] | None = None
    """The containers whose leaves stack layers for ``lax.scan``, along their first axis, or a
    mapping from containers to that axis. A container is named as in the path, ``'layers'`` or
    ``'decoder/layers'``. None finds them (:data:`DEFAULT_STACKED`); ``()`` means there are none."""

    def __post_init__(self) -> None:
        _checks.check_choice("unmatched", self.unmatched, ("error", "other"))
        _layout.check_stacked(self.stacked)
        if _is_rules(self.rules):
            object.__setattr__(self, "rules", _layer_types.check_rules(self.rules))
        elif not callable(self.rules):
            _check_labels(_paths.named_leaves(self.rules))

    def types(self) -> tuple[str, ...] | None:
        """The types that a parameter can have, :class:`LayerType`'s first; None if unknown."""
        if callable(self.rules):
            return None
        if _is_rules(self.rules):
            names = [*(rule[1] for rule in self.rules), LayerType.other.value]
        else:
            names = [str(label) for label in jax.tree.leaves(self.rules)]
        return _layer_types.in_order(names)

    def labels(
        self, tree: optax.Params, unmatched: Literal["error", "other"] | None = None
    ) -> optax.Params:
        """The layer type of every leaf, in the structure of the tree.

        ``unmatched`` stands in for that of the layers, for those who do not need every type.
        """
        leaves = _paths.named_leaves(tree)
        if _is_rules(self.rules):
            paths = [names for names, _ in leaves]
            labels = _by_rules(self.rules, paths, unmatched or self.unmatched)
        elif callable(self.rules):
            labels = _spread(self.rules(tree), leaves)
        else:
            labels = _spread(self.rules, leaves)
        return jax.tree.unflatten(jax.tree.structure(tree), labels)

    def layout(self, tree: optax.Params) -> tuple[_layout.Leaf, ...]:
        """Where the layers of every leaf are."""
        return _layout.layout(tree, self.stacked)

    def check_types(self, what: str, types: Iterable[str]) -> None:
        """Raises ValueError for a name that no parameter can have, as far as can be known."""
        known = self.types()
        for name in types:
            if not isinstance(name, str):
                raise ValueError(f"{what} has the layer type {name!r}, which is not a name.")
            if known is not None and name not in (*known, *LayerType):
                raise ValueError(
                    f"{what} has the unknown layer type {name!r}; known are {', '.join(known)}"
                    f"{_layer_types.suggestion(name, known) or '.'}"
                )


LayersLike: TypeAlias = Layers | LabelFunction | LabelTree
"""What ``layers=`` takes."""


def as_layers(layers: LayersLike) -> Layers:
    """The :class:`Layers` that an argument means."""
    if isinstance(layers, Layers):
        return layers
    if layers is None:
        raise ValueError("layers must be a Layers, labels, or a function to labels, not None.")
    if _is_rules(layers) and layers:
        raise ValueError(
            "layers has pairs, which may be rules or labels: write layers=Layers(rules=...) for "
            "rules, and a function that returns them for labels."
        )
    return Layers(rules=layers)


def _is_rules(source: object) -> TypeGuard[tuple[Rule, ...]]:
    """Whether it is a sequence with a pair of names in it, or an empty one."""
    return isinstance(source, (list, tuple)) and (
        not source
        or any(isinstance(pair, tuple) and [*map(type, pair)] == [str, str] for pair in source)
    )


def _by_rules(
    rules: tuple[Rule, ...], paths: Sequence[tuple[str, ...]], unmatched: str
) -> list[str]:
    """The types that rules give to paths."""
    labels, missed = [], []
    for names in paths:
        found = None
        if not all(map(_paths.is_index, names)):
            found = _layer_types.match(names, rules)
            if found is None:
                missed.append("/".join(names))
        labels.append(LayerType.other.value if found is None else found.type)
    if missed and unmatched == "error":
        raise _layer_types.unmatched_error(missed)
    return labels


def _spread(labels: Any, leaves: Sequence[tuple[tuple[str, ...], Any]]) -> list[str]:
    """A label for each leaf, out of labels for leaves or for the modules around them."""
    given = _paths.named_leaves(labels)
    _check_labels(given)
    by_path = dict(given)
    spread, missed = [], []
    for names, _ in leaves:
        around = (names[:end] for end in range(len(names), -1, -1))
        label = next((by_path[path] for path in around if path in by_path), None)
        spread.append(str(label))
        if label is None:
            missed.append("/".join(names) or "one array")
    if missed:
        raise ValueError(
            "The labels in layers have none for these parameters:\n"
            f"  {_layer_types.listed(missed)}\n"
            "Labels must have the structure of the parameters, or that of the modules around them."
        )
    return spread


def _check_labels(labels: Sequence[tuple[tuple[str, ...], Any]]) -> None:
    for names, label in labels:
        if not isinstance(label, str) or not label:
            raise ValueError(
                f"A label must be a name, but that of {'/'.join(names) or 'the tree'} in layers is "
                f"{label!r}."
            )


def warn_of_unused(what: str, types: Iterable[str], params: Any, layers: Layers) -> None:
    """Warns of misspelt types where a function gives the labels.

    Only with the parameters can these be seen. A type that is simply absent is no slip, so there
    is a warning only for a name that is close to one that occurs, or where no name occurs at all.
    Where a mask hides parameters, theirs may be the names.
    """
    if layers.types() is not None or not jax.tree.leaves(params) or is_a_part(params):
        return
    types = list(types)
    given = list(dict.fromkeys(jax.tree.leaves(layers.labels(params))))
    unused = [name for name in types if name not in given]
    own = [name for name in unused if name not in _layer_types.LayerType.__members__]
    # What is named too was not meant: 'encoder' is close to 'decoder'.
    meant = [name for name in given if name not in types]
    hints = {name: _layer_types.suggestion(name, meant) for name in own}
    for name, hint in hints.items():
        if hint:
            warnings.warn(f"No parameter has the type {name!r} of {what}{hint}", stacklevel=3)
    if types and unused == types and not any(hints.values()):
        warnings.warn(
            f"{what} does nothing: no parameter has a type of {', '.join(map(repr, types))}; "
            f"layers gives {', '.join(map(repr, given))}.",
            stacklevel=3,
        )


def is_a_part(tree: Any) -> bool:
    """Whether a mask or a partition around hides parameters, which a name may be for."""

    def is_hidden(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode)

    return any(map(is_hidden, jax.tree.leaves(tree, is_leaf=is_hidden)))


def layer_types(params: optax.Params, layers: LayersLike = Layers()) -> optax.Params:
    """Labels every parameter with the type of its layer.

    Args:
      params: a tree of parameters, gradients or shapes: dicts, lists, dataclasses, Flax NNX states,
        Linen variables (boxed or not), Equinox modules, Haiku dicts. Only the paths are read.
      layers: how types are found; see :class:`Layers`.

    Returns:
      A tree of the same structure whose leaves are strings: the values of :class:`LayerType`, or
      the names that your own rules give.

    Raises:
      ValueError: no rule matches a named parameter (all such paths are listed, with rules for
        them), or labels do not fit the tree.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_strat import DEFAULT_RULES, Layers, layer_types
      >>> kernel = jnp.ones((4, 4))
      >>> params = {'embed': kernel, 'layers': [{'attn': {'query': kernel}, 'mlp': kernel}]}
      >>> layer_types(params)
      {'embed': 'embedding', 'layers': [{'attn': {'query': 'attention'}, 'mlp': 'mlp'}]}

      A name that no rule knows is an error; one line teaches it, and its type is yours to name:

      >>> layer_types({'adapter': kernel}, Layers(rules=(*DEFAULT_RULES, ('adapter', 'lora'))))
      {'adapter': 'lora'}
    """
    return as_layers(layers).labels(params)
