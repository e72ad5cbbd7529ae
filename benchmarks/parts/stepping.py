"""Processes that hold one program each and run it when they are told to.

Each has its own allocator, compiler and dispatch, so that nothing of one program helps or hinders
another; only one of them runs at any time.
"""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, Literal, NamedTuple

import numpy as np

Run = Callable[[int], None]
"""Takes that many steps and waits for the last."""

Start = Callable[[], tuple[Run, Any]]
"""Called in the new process: compiles and warms up; returns what to run and what to say of it. It
must be picklable, such as an instance of a dataclass with `__call__`."""


class Round(NamedTuple):
    """Seconds of one round."""

    wall: float
    cpu: float


class StartError(RuntimeError):
    """A process ended before its program was ready; it has printed why."""


class Stepper:
    """The near end of a process that runs one program; it starts at once.

    Raises:
      StartError: If it ends at once as well.
    """

    def __init__(self, start: Start) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, start), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.said: Any = self._connection.recv()
            """By the program; once it is known, all is compiled and warm."""
        except EOFError:
            self.close()
            raise StartError(
                f"{type(start).__name__} did not start: see its error above."
            ) from None

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
def steppers(programs: Sequence[Start]) -> Iterator[list[Stepper]]:
    """A process for each program, one of which may occur several times; ended on leaving."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(Stepper(start))) for start in programs]


def take_turns(
    running: Sequence[Stepper], steps: int, rounds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Runs all programs in every round, another one first each time.

    Returns:
      Wall and CPU seconds, [programs, rounds].
    """
    times = np.array([_one_round(running, steps, turn) for turn in range(rounds)])
    return times[..., 0].T, times[..., 1].T


def _one_round(running: Sequence[Stepper], steps: int, turn: int) -> list[Round]:
    everyone = range(len(running))
    order = [(turn + position) % len(running) for position in everyone]
    taken = {index: running[index].run(steps) for index in order}
    return [taken[index] for index in everyone]


def prepare(device: Literal["cpu", "gpu"], core: int | None = None) -> None:
    """Sets what the processes inherit: the kind of device; on a CPU one core and one thread.

    Args:
      device: The only kind that JAX sees.
      core: Which core of the CPU; by default the last.
    """
    os.environ["JAX_PLATFORMS"] = {"cpu": "cpu", "gpu": "cuda"}[device]
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # Several processes share the device.
    if device == "cpu":
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false"
        os.environ["OMP_NUM_THREADS"] = "1"
        if hasattr(os, "sched_setaffinity"):  # Where it is missing, processes may wander.
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0)) if core is None else core})


def _serve(connection: Connection, start: Start) -> None:
    run, said = start()
    connection.send(said)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            steps = connection.recv()
            wall, cpu = time.perf_counter(), time.process_time()
            run(steps)
            connection.send(Round(time.perf_counter() - wall, time.process_time() - cpu))
