"""The optimizers that the benchmarks compare, with the cost that each is allowed."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import optax

from optax_strat import aardvark, decays, record_statistics, stratopt

RATE = 1e-4
ADAMW, CLIPPED = "adamw", "adamw, clipped"

Make = Callable[[], optax.GradientTransformation]

adamw = functools.partial(optax.adamw, RATE, weight_decay=0.1, mask=decays)


def clipped_adamw() -> optax.GradientTransformation:
    """AdamW as language models are usually trained with it."""
    return optax.chain(optax.clip_by_global_norm(1.0), adamw())


def bare_aardvark(**options: Any) -> optax.GradientTransformation:
    """Aardvark without clip and guard: all that it adds to AdamW are the multipliers."""
    return aardvark(RATE, clip=None, nonfinite=None, **options)


@dataclasses.dataclass(frozen=True)
class Contender:
    """An optimizer and its targets."""

    make: Make
    floor: float
    """Bytes a parameter that a step cannot avoid: it reads the gradient, once more where it needs a
    norm first, and reads and writes parameters and moments."""
    slack: float = 0.1
    """Bytes a parameter above the floor, for what is kept by layer and by leaf."""
    temporary: float = 0.01
    """Bytes a parameter of memory beyond parameters and state, or as many as its peer needs."""
    rival: str = ADAMW
    """Whose time its own is divided by."""
    time: float | None = None
    """The largest ratio of times on a CPU."""
    peer: str = ADAMW
    """The AdamW that does as much, whose kernels its own are divided by."""
    kernels: float | None = None
    """The largest ratio of kernels on stacked layers."""


CONTENDERS: Mapping[str, Contender] = MappingProxyType(
    {
        ADAMW: Contender(adamw, floor=28),
        CLIPPED: Contender(clipped_adamw, floor=32, peer=CLIPPED),
        "aardvark, bare": Contender(bare_aardvark, floor=28, time=1.00, kernels=1.1),
        "aardvark": Contender(
            lambda: aardvark(RATE), floor=32, rival=CLIPPED, time=0.60, peer=CLIPPED, kernels=1.1
        ),
        "stratopt": Contender(
            lambda: stratopt(RATE), floor=32, time=1.15, peer=CLIPPED, kernels=0.8
        ),
        "stratopt, guarded": Contender(
            lambda: stratopt(RATE, nonfinite="skip"), floor=32, peer=CLIPPED
        ),
        "aardvark, bare, bf16 mu": Contender(lambda: bare_aardvark(mu_dtype="bfloat16"), floor=24),
        "stratopt, bf16 mu": Contender(
            lambda: stratopt(RATE, mu_dtype="bfloat16"), floor=28, peer=CLIPPED
        ),
        "stratopt, bf16 both": Contender(
            lambda: stratopt(RATE, mu_dtype="bfloat16", second_moment="bfloat16"),
            floor=24,
            peer=CLIPPED,
        ),
        "stratopt, factored": Contender(
            # One read each for the norm, the means of the rows, those of the columns, the update.
            # XLA writes the squares of the largest leaves to sum them up in two directions, and all
            # that is read more than once counts more where leaves are small.
            lambda: stratopt(RATE, mu_dtype="bfloat16", second_moment="factored"),
            floor=28,
            slack=4,
            temporary=1.6,
            peer=CLIPPED,
        ),
        "aardvark, statistics": Contender(
            # XLA splits the pass over large leaves, and copies parameters whose norms it takes.
            lambda: record_statistics(aardvark(RATE)),
            floor=36,
            slack=11,
            temporary=1.0,
            rival=CLIPPED,
            peer=CLIPPED,
        ),
    }
)


def chosen(only: tuple[str, ...]) -> tuple[str, ...]:
    """The names of some contenders, or of all.

    Raises:
      ValueError: There is no contender of such a name.
    """
    for name in only:
        if name not in CONTENDERS:
            raise ValueError(f"There is no {name!r} to compare: choose from {list(CONTENDERS)}.")
    return only or tuple(CONTENDERS)
