"""Processes that hold one program each and run it when they are told to.

Each has its own allocator, compiler and dispatch, so that nothing of one optimizer helps or hinders
another; only one of them runs at any time.
"""

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import trees, update
from benchmarks.contenders import CONTENDERS
from train import provenance

COPY = "copy"
"""The program that measures what memory can do: it copies an array as large as the parameters."""


class Round(NamedTuple):
    """Seconds of one round."""

    wall: float
    cpu: float


class Stepper:
    """The near end of a process that runs one program; it starts at once."""

    def __init__(self, program: str, tree: str, size: trees.Size) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, program, tree, size), daemon=True
        )
        self._process.start()
        theirs.close()
        self.device: str = self._connection.recv()
        """What it runs on; once it is known, all is compiled and warm."""

    def run(self, steps: int) -> Round:
        """Runs that many steps in a row."""
        self._connection.send(steps)
        return self._connection.recv()

    def close(self) -> None:
        """Ends the process, which gives all its memory back."""
        self._connection.close()
        self._process.join(10)
        self._process.kill()


@contextlib.contextmanager
def steppers(programs: Sequence[str], tree: str, size: trees.Size) -> Iterator[list[Stepper]]:
    """A process for each program, one of which may occur several times; ended on leaving."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(contextlib.closing(Stepper(program, tree, size)))
            for program in programs
        ]


def _serve(connection: Connection, program: str, tree: str, size: trees.Size) -> None:
    shapes = trees.tree(tree, size)
    run = _copying(shapes) if program == COPY else _updating(program, shapes)
    run(2)
    connection.send(provenance.device())
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            steps = connection.recv()
            wall, cpu = time.perf_counter(), time.process_time()
            run(steps)
            connection.send(Round(time.perf_counter() - wall, time.process_time() - cpu))


def _updating(name: str, shapes: Any) -> Callable[[int], None]:
    tx = CONTENDERS[name].make()
    params, gradients = random_tree(shapes, 0), random_tree(shapes, 1)
    state, step = jax.jit(tx.init)(params), update.jitted_step(tx)

    def run(steps: int) -> None:
        nonlocal params, state
        for _ in range(steps):
            params, state = step(params, state, gradients)
        jax.block_until_ready((params, state))

    return run


def _copying(shapes: Any) -> Callable[[int], None]:
    source = jnp.ones((trees.count(shapes),), jnp.float32)
    target = jnp.zeros_like(source)
    copy = jax.jit(lambda source, _: jnp.copy(source), donate_argnums=1, keep_unused=True)

    def run(steps: int) -> None:
        nonlocal target
        for _ in range(steps):
            target = copy(source, target)
        jax.block_until_ready(target)

    return run


def random_tree(shapes: Any, seed: int) -> Any:
    """Normal numbers of standard deviation 0.02, as in a tree of shapes."""
    rng = np.random.default_rng(seed)  # Of NumPy: nothing to compile.
    return jax.tree.map(
        lambda x: jnp.asarray(np.float32(0.02) * rng.standard_normal(x.shape, np.float32)), shapes
    )
