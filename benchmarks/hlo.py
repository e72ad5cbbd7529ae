"""What a compiled program moves through memory, read from the text of its scheduled HLO.

Every launched operation reads its operands once and writes its results once. A loop counts as many
times as it runs; of an array that an operation only slices, or updates a slice of in place, the
slice counts. Caches do not exist here: two operations that read an array read it twice.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping

import jax

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("partition-id", "replica-id", "opt-barrier", "add-dependency"),
}
_SLICES = ("slice", "dynamic-slice", "gather")
_VIEWS = ("bitcast", "reshape")
_PRODUCTS = ("dot", "custom-call")

_COMPUTATION = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*-> .*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = (.*)")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"(\w+)=%([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_SOURCE = re.compile(r'op_name="([^"]*)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What a program does when it runs once."""

    bytes: float
    """Read and written."""
    kernels: int
    """Operations launched."""
    collectives: Mapping[str, int]
    """Launches of each kind of `COLLECTIVES`."""
    in_products: float
    """The bytes that matrix products and attention move, which compute meanwhile."""


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation: `name = type op(arguments), attributes`."""

    name: str
    type: str
    op: str
    arguments: str
    attributes: str

    @property
    def operands(self) -> list[str]:
        """The names of the instructions that it reads."""
        return re.findall(r"%([\w.\-]+)", self.arguments)


Computation = dict[str, Instruction]


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

    @property
    def collective(self) -> str:
        """Which of `COLLECTIVES` it is, or nothing."""
        kind = self.instruction.op.removesuffix("-start")
        return kind if kind in COLLECTIVES else ""


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
        if launch.collective:
            collectives[launch.collective] += launch.times
    return Traffic(
        bytes=sum(launch.times * launch.bytes for launch in found),
        kernels=sum(launch.times for launch in found),
        collectives=collectives,
        in_products=sum(launch.times * launch.bytes for launch in found if launch.product),
    )


def launches(text: str) -> list[Launch]:
    """Every operation that a program launches; of two branches, those of the costlier."""
    computations, entry = parse(text)
    return list(_launches(computations[entry], computations, 1))


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """All computations of a module by name, and the name of its entry."""
    computations: dict[str, Computation] = {}
    entry, current = "", {}
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if header := _COMPUTATION.match(line):
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif match := _INSTRUCTION.match(line):
            name, rest = match.groups()
            type_, rest = _cut(rest)
            op, _, rest = rest.strip().partition("(")
            current[name] = Instruction(name, type_, op, *_cut("(" + rest))
    return computations, entry


def size(type_: str) -> int:
    """Bytes of a type such as `f32[2,3]{1,0}`, or of a tuple of them.

    >>> size("(bf16[4,8]{1,0}, pred[3], s32[])")
    71
    """
    return sum(
        math.ceil(_bits(dtype) * math.prod(int(n) for n in dims.split(",") if n) / 8)
        for dtype, dims in _ARRAY.findall(type_)
    )


def largest_along(dimension: int, text: str) -> int:
    """Bytes of the largest array with a dimension of that size that a program writes, or 0."""
    arrays = (array for it in launches(text) for array in _ARRAY.findall(it.instruction.type))
    sizes = (
        size(f"{dtype}[{dims}]") for dtype, dims in arrays if str(dimension) in dims.split(",")
    )
    return max(sizes, default=0)


def _bits(dtype: str) -> int:
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 8 * (dtype == "pred")  # a token has no size


def _cut(text: str) -> tuple[str, str]:
    """Cuts off what comes first: up to the matching parenthesis, or else up to a space."""
    if not text.startswith("("):
        head, _, tail = text.partition(" ")
        return head, tail
    depth = 0
    for position, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[: position + 1], text[position + 1 :]
    raise ValueError(f"The parentheses do not match in: {text[:80]}")


def _launches(
    computation: Computation, all_of_them: dict[str, Computation], times: int
) -> Iterator[Launch]:
    for it in computation.values():
        named = dict(_CALLED.findall(it.attributes))

        def called(role: str, turns: int = 1, named: dict[str, str] = named) -> Iterator[Launch]:
            return _launches(all_of_them[named[role]], all_of_them, times * turns)

        match it.op:
            case op if op in _FREE or op.endswith(("-done", "-update")):
                pass
            case "while":
                trips = int((_TRIPS.search(it.attributes) or [0, 1])[1])
                yield from called("body", trips)
                yield from called("condition", trips + 1)
            case "conditional":
                listed = re.findall(r"%([\w.\-]+)", "".join(_BRANCHES.findall(it.attributes)))
                names = listed or [named["true_computation"], named["false_computation"]]
                branches = [list(_launches(all_of_them[n], all_of_them, times)) for n in names]
                yield from max(branches, key=lambda branch: sum(x.times * x.bytes for x in branch))
            case "call":
                yield from called("to_apply")
            case "async-start":
                yield from called("calls")
            case "fusion":
                inside = all_of_them[named["calls"]]
                product = any(x.op in _PRODUCTS for x in inside.values())
                yield Launch(it, times, _fusion_bytes(it, computation, inside), product)
            case _:
                yield Launch(it, times, _bytes(it, computation), it.op in _PRODUCTS)


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
