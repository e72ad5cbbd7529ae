"""What a compiled program moves through memory, read from the text of its scheduled HLO.

Every launched operation reads its operands once and writes its results once. A loop counts as many
times as it runs; of an array that an operation only slices, or updates a slice of in place, the
slice counts. Caches do not exist here: two operations that read an array read it twice.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping

import jax

from train.experiments.costs.hlo import (
    Computation,
    Execution,
    Instruction,
    array_bytes,
    arrays,
    executions,
    parse,
    size,
)

_SLICES = ("slice", "dynamic-slice", "gather")
_VIEWS = ("bitcast", "reshape")
_PRODUCTS = ("dot", "custom-call")

_SOURCE = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What a program does when it runs once."""

    bytes: float
    """Read and written."""
    kernels: int
    """Operations launched."""
    collectives: Mapping[str, int]
    """Launches of each kind of `train.experiments.costs.hlo.COLLECTIVES`."""
    in_products: float
    """The bytes that matrix products and attention move, which compute meanwhile."""


@dataclasses.dataclass(frozen=True)
class Launch:
    """One operation on the device, as often as it runs."""

    instruction: Instruction
    times: int
    bytes: float
    """Read and written each time."""
    product: bool
    """Whether it is, or has inside, a matrix product or attention."""

    @property
    def source(self) -> str:
        """The operation of the traced program that it comes from."""
        return (_SOURCE.search(self.instruction.attributes) or ["", ""])[1]


def traffic(compiled: jax.stages.Compiled) -> Traffic:
    """Counts the traffic of a compiled program."""
    text = compiled.as_text()
    assert text is not None
    return text_traffic(text)


def text_traffic(text: str) -> Traffic:
    """Counts the traffic of a program in the text form of scheduled HLO."""
    found = launches(text)
    collectives: Counter[str] = Counter()
    for launch in found:
        if launch.instruction.collective:
            collectives[launch.instruction.collective] += launch.times
    return Traffic(
        bytes=sum(launch.times * launch.bytes for launch in found),
        kernels=sum(launch.times for launch in found),
        collectives=collectives,
        in_products=sum(launch.times * launch.bytes for launch in found if launch.product),
    )


def launches(text: str) -> list[Launch]:
    """Every operation that a program launches; of two branches, those of the costlier."""
    computations, entry = parse(text)

    def moved(execution: Execution) -> float:
        it, around, _ = execution
        if it.op == "fusion":
            return _fusion_bytes(it, around, computations[it.called["calls"]])
        return _bytes(it, around)

    def product(it: Instruction) -> bool:
        inside = computations[it.called["calls"]].values() if it.op == "fusion" else [it]
        return any(x.op in _PRODUCTS for x in inside)

    return [
        Launch(it.instruction, it.times, moved(it), product(it.instruction))
        for it in executions(computations, entry, moved)
    ]


def largest_along(dimension: int, text: str) -> int:
    """Bytes of the largest array with a dimension of that size that a program writes, or 0."""
    written = (array for it in launches(text) for array in arrays(it.instruction.type))
    sizes = (
        array_bytes(dtype, dims) for dtype, dims in written if str(dimension) in dims.split(",")
    )
    return max(sizes, default=0)


def _bytes(it: Instruction, computation: Computation) -> float:
    if it.op in _SLICES:
        return 2 * size(it.type)
    if it.op == "dynamic-update-slice":
        return 2 * size(computation[it.operands[1]].type)
    if it.op.endswith("-start"):  # its type holds the operands too
        return size(it.type)
    return size(it.type) + sum(size(computation[name].type) for name in it.operands)


def _fusion_bytes(it: Instruction, outside: Computation, inside: Computation) -> float:
    *_, root = inside.values()
    results = [inside[name] for name in root.operands] if root.op == "tuple" else [root]
    parameters = {x.arguments: x for x in inside.values() if x.op == "parameter"}
    return sum(_written(_behind_views(result, inside), inside) for result in results) + sum(
        _read(parameters[f"({position})"], size(outside[name].type), inside)
        for position, name in enumerate(it.operands)
    )


def _written(result: Instruction, inside: Computation) -> int:
    """Bytes that a result of a fusion writes: of an update in place, the slice."""
    if result.op == "dynamic-update-slice":
        return size(inside[result.operands[1]].type)
    return size(result.type)


def _read(value: Instruction, whole: int, inside: Computation) -> float:
    """Bytes that a fusion reads of a parameter: all, or the slices that are all that it uses."""
    slices = 0.0
    for user in inside.values():
        if value.name not in user.operands:
            continue
        if user.op in (*_VIEWS, "convert"):
            slices += _read(user, whole, inside)
        elif user.op in _SLICES and user.operands[0] == value.name:
            slices += whole * size(user.type) / size(value.type)
        elif not (user.op == "dynamic-update-slice" and user.operands[0] == value.name):
            return whole
    return min(slices, whole)


def _behind_views(value: Instruction, inside: Computation) -> Instruction:
    while value.op in _VIEWS:
        value = inside[value.operands[0]]
    return value
