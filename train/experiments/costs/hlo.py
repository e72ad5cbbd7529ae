"""The text of a compiled program: its instructions, how often each runs, and what devices exchange.

The text is scheduled HLO, as `compiled.as_text()` gives it. A loop counts as many times as it runs,
where the compiler knows that; of two branches, the costlier one counts.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("partition-id", "replica-id", "opt-barrier", "add-dependency"),
}
_HOLD_OPERANDS = ("all-gather-start", "collective-permute-start")

_COMPUTATION = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*-> .*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = (.*)")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"(\w+)=%([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


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

    @property
    def called(self) -> dict[str, str]:
        """The computations that it runs, by their role, such as `body` or `calls`."""
        return dict(_CALLED.findall(self.attributes))

    @property
    def collective(self) -> str:
        """Which of `COLLECTIVES` it is, or nothing."""
        kind = self.op.removesuffix("-start")
        return kind if kind in COLLECTIVES else ""


Computation = dict[str, Instruction]


class Execution(NamedTuple):
    """An instruction that the device executes, as often as it does."""

    instruction: Instruction
    computation: Computation
    """The one that it stands in, with its operands."""
    times: int


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


def executions(
    computations: dict[str, Computation], entry: str, cost: Callable[[Execution], float]
) -> Iterator[Execution]:
    """Every instruction that a program executes; a fusion is one.

    Args:
      computations: All of the module.
      entry: The name of the one to run.
      cost: By whose sum one of two branches is the costlier.
    """

    def run(name: str, times: int) -> Iterator[Execution]:
        for it in computations[name].values():
            match it.op:
                case op if op in _FREE or op.endswith(("-done", "-update")):
                    pass
                case "while":
                    trips = int((_TRIPS.search(it.attributes) or [0, 1])[1])
                    yield from run(it.called["body"], times * trips)
                    yield from run(it.called["condition"], times * (trips + 1))
                case "conditional":
                    ways = [list(run(branch, times)) for branch in _branches(it)]
                    yield from max(ways, key=lambda way: sum(it.times * cost(it) for it in way))
                case "call":
                    yield from run(it.called["to_apply"], times)
                case "async-start":
                    yield from run(it.called["calls"], times)
                case _:
                    yield Execution(it, computations[name], times)

    return run(entry, 1)


def size(type_: str) -> int:
    """Bytes of a type such as `f32[2,3]{1,0}`, or of a tuple of them.

    >>> size("(bf16[4,8]{1,0}, pred[3], s32[])")
    71
    """
    return sum(array_bytes(dtype, dims) for dtype, dims in arrays(type_))


def arrays(type_: str) -> list[tuple[str, str]]:
    """Dtype and dims, separated by commas, of every array of a type."""
    return _ARRAY.findall(type_)


def array_bytes(dtype: str, dims: str) -> int:
    """Bytes of one of them; a token has no size."""
    digits = re.search(r"\d+", dtype)
    bits = int(digits[0]) if digits else 8 * (dtype == "pred")
    return math.ceil(bits * math.prod(int(n) for n in dims.split(",") if n) / 8)


def collective_bytes(text: str) -> dict[str, int]:
    """What a device exchanges with others when a program runs once.

    Args:
      text: The program.

    Returns:
      Bytes by kind of collective, those that occur: of each operation, the arrays that go in or
      those that come out, whichever are larger. How often they cross a wire is the network's.
    """
    found = dict.fromkeys(COLLECTIVES, 0)
    for it in executions(*parse(text), _exchanged):
        if it.instruction.collective:
            found[it.instruction.collective] += it.times * _exchanged(it)
    return {kind: total for kind, total in found.items() if total}


def _exchanged(execution: Execution) -> int:
    it = execution.instruction
    if not it.collective:
        return 0
    operands = sum(size(execution.computation[name].type) for name in it.operands)
    results = size(it.type) - (operands if it.op in _HOLD_OPERANDS else 0)
    return max(operands, results)


def _branches(conditional: Instruction) -> list[str]:
    listed = re.findall(r"%([\w.\-]+)", "".join(_BRANCHES.findall(conditional.attributes)))
    called = conditional.called
    return listed or [called["true_computation"], called["false_computation"]]


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
