"""A table of what the optimizers see in a tree of parameters."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import optax

from optax_strat import _decay, _layout, _paths
from optax_strat._layers import Layers, LayersLike, as_layers
from optax_strat._scaling import MULTIPLIERS


class Row(NamedTuple):
    """One parameter."""

    path: str
    shape: tuple[int, ...]
    type: str
    """One of :class:`LayerType`, or a type of your own."""
    layers: int
    """How many layers it holds: the slices of a stacked leaf, or 1. A layer is one tensor here."""
    multiplier: float
    """Its type's multiplier."""
    decay: bool
    """Whether weight decay applies to it by default."""
    share: float
    """Its share of all parameters, from 0 to 1."""


class Description(NamedTuple):
    """What :func:`describe` returns: rows to compute with, and a table when printed.

    In the table, parameters that differ in numbers alone are one line: ``layers/0..11/mlp/up``.
    """

    rows: tuple[Row, ...]
    parameters: int
    """The number of parameters in all."""

    def __str__(self) -> str:
        table = [("path", "shape", "type", "layers", "multiplier", "decay", "share")]
        for row in _joined(self.rows):
            shape = "×".join(str(size) for size in row.shape) or "()"
            decay = "yes" if row.decay else "no"
            share = f"{row.share:.1%}"
            multiplier = f"{row.multiplier:g}"
            table.append((row.path, shape, row.type, str(row.layers), multiplier, decay, share))
        widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
        numeric = (3, 4, 6)
        lines = [
            "  ".join(
                text.rjust(width) if column in numeric else text.ljust(width)
                for column, (text, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in table
        ]
        rule = "  ".join("-" * width for width in widths)
        layers = sum(row.layers for row in self.rows)
        total = f"{self.parameters:,} parameters in {len(self.rows)} arrays, {layers} layers"
        return "\n".join([lines[0], rule, *lines[1:], rule, total])


def _joined(rows: Sequence[Row]) -> list[Row]:
    """Rows with those of numbered layers, which make a long table, summed up in one."""
    alike = [row._replace(path="", share=0.0) for row in rows]
    return [
        alike[members[0]]._replace(
            path=path,
            layers=sum(rows[member].layers for member in members),
            share=sum(rows[member].share for member in members),
        )
        for path, members in _paths.fold([row.path for row in rows], alike)
    ]


def describe(
    params: optax.Params,
    *,
    multipliers: Mapping[str, float] | None = None,
    layers: LayersLike = Layers(),
) -> Description:
    """Tells what the optimizers make of a tree: types, layers, multipliers, decay, sizes.

    Args:
      params: a tree of parameters or of their shapes (``jax.eval_shape`` will do).
      multipliers: multipliers by layer type, over Aardvark's equation 1.
      layers: how layers and their types are found; see :class:`Layers`.

    Returns:
      The rows; ``print`` shows them as a table.

    Raises:
      ValueError: a parameter has no layer type, or ``multipliers`` has an unknown one.

    Examples:
      >>> import jax.numpy as jnp
      >>> from optax_strat import describe
      >>> print(describe({
      ...     'embed': {'embedding': jnp.ones((16, 4))},
      ...     'layers': {'mlp_norm': {'scale': jnp.ones((2, 4))}, 'mlp': jnp.ones((2, 4, 8))},
      ... }))
      path                   shape  type       layers  multiplier  decay  share
      ---------------------  -----  ---------  ------  ----------  -----  -----
      embed/embedding        16×4   embedding       1           1  yes    47.1%
      layers/mlp             2×4×8  mlp             2         1.2  yes    47.1%
      layers/mlp_norm/scale  2×4    norm            2           1  no      5.9%
      ---------------------  -----  ---------  ------  ----------  -----  -----
      136 parameters in 3 arrays, 5 layers
    """
    layers = as_layers(layers)
    layers.check_types("multipliers", multipliers or {})
    chosen = MULTIPLIERS | dict(multipliers or {})
    labels = jax.tree.leaves(layers.labels(params))
    decays = jax.tree.leaves(_decay.decays(params, layers))
    leaves = layers.layout(params)
    shapes = [_layout.shape_of(x) for _, x in _paths.named_leaves(params)]
    total = sum(math.prod(shape) for shape in shapes)
    rows = tuple(
        Row(
            path=leaf.name or "(unnamed)",
            shape=shape,
            type=label,
            layers=leaf.count,
            multiplier=float(chosen.get(label, 1.0)),
            decay=decay,
            share=math.prod(shape) / max(total, 1),
        )
        for leaf, shape, label, decay in zip(leaves, shapes, labels, decays, strict=True)
    )
    return Description(rows, total)
