"""Names of layer types that no parameter has, which are slips where nothing else can tell."""

import warnings
from collections.abc import Iterable
from typing import Any

import jax
import optax

from optax_strat import _layer_types
from optax_strat._layers import Layers


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
