"""Processes that train one configuration together, and step when they are told to.

A team is one or more processes of one layout of devices. Between turns it waits, so that several
teams can be timed in turn on one machine.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from models import TransformerConfig
from train.config.run import MeshConfig, RunConfig
from train.data import Batch
from train.host import provenance
from train.host.distributed import HostsConfig, init_distributed
from train.optimizers import StratOpt
from train.step.program import build_program
from train.step.sharding import process_share
from train.tasks import task_of

Device = Literal["cpu", "gpu"]
Size = Literal["full", "tiny"]


class Work(NamedTuple):
    """A model and its batch."""

    layers: int
    d_model: int
    rows: int
    context: int


SIZES: Mapping[Size, Work] = MappingProxyType(
    {"full": Work(4, 256, 64, 256), "tiny": Work(1, 16, 8, 16)}
)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Devices along one axis, dealt out among processes."""

    axis: Literal["data", "fsdp"]
    devices: int
    processes: int = 1

    def __str__(self) -> str:
        """Such as `fsdp=8`."""
        processes = f" in {self.processes} processes" if self.processes > 1 else ""
        return f"{self.axis}={self.devices}{processes}"


class Turn(NamedTuple):
    """What a turn took, and the loss of its last step."""

    seconds: float
    loss: float


class Team:
    """The near end of a team; a context manager that ends its processes.

    Args:
      layout: The devices.
      work: What to train.
      device: On what.
    """

    def __init__(self, layout: Layout, work: Work, device: Device) -> None:
        context = multiprocessing.get_context("spawn")
        address = f"127.0.0.1:{_free_port()}"
        self._connections, self._processes = [], []
        for index in range(layout.processes):
            near, far = context.Pipe()
            process = context.Process(
                target=_serve, args=(far, layout, index, address, work, device), daemon=True
            )
            process.start()
            far.close()
            self._connections.append(near)
            self._processes.append(process)
        self.device: str = self._answers()[0]
        """What it runs on; once it is known, all is compiled and warm."""

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *exception: object) -> None:
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(10)
            process.kill()

    def run(self, steps: int) -> Turn:
        """Trains so many steps; the team's time is that of its slowest process."""
        for connection in self._connections:
            connection.send(steps)
        turns: list[Turn] = self._answers()
        return Turn(max(turn.seconds for turn in turns), turns[0].loss)

    def _answers(self) -> list[Any]:
        return [connection.recv() for connection in self._connections]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _serve(
    connection: Connection, layout: Layout, index: int, address: str, work: Work, device: Device
) -> None:
    _see_devices(layout, index, device)
    train = _training(layout, index, address, work)
    train(2)
    connection.send(provenance.device())
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            steps = connection.recv()
            start = time.perf_counter()
            loss = train(steps)
            connection.send(Turn(time.perf_counter() - start, loss))


def _see_devices(layout: Layout, index: int, device: Device) -> None:
    """Has JAX find this process's devices and no others; it has not looked for any yet."""
    own = layout.devices // layout.processes
    if device == "cpu":
        jax.config.update("jax_platforms", "cpu")
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={own}"
    else:
        gpus = range(index * own, (index + 1) * own)
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # Several teams share the GPUs.


def _training(layout: Layout, index: int, address: str, work: Work) -> Callable[[int], float]:
    """A function that trains so many steps, always on the same batch, and returns the last loss."""
    if layout.processes > 1:
        init_distributed(HostsConfig(address, layout.processes, index))
    config = RunConfig(
        model=TransformerConfig(
            vocab_size=256, context=work.context, layers=work.layers, d_model=work.d_model,
            heads=8, d_ff=3 * work.d_model, dtype="float32",
        ),
        optimizer=StratOpt(),
        mesh=MeshConfig(**{"data": 1, layout.axis: layout.devices}),
        batch_size=work.rows,
        context=work.context,
    )  # fmt: skip
    program = build_program(config, task_of(config))
    tokens_BT = np.random.default_rng(0).integers(256, size=(work.rows, work.context + 1))
    share = process_share(program.mesh, work.rows)
    rows = np.split(tokens_BT.astype(np.int32), share["process_count"])[share["process_index"]]
    batch = Batch(rows[:, :-1], rows[:, 1:], np.ones_like(rows[:, 1:], np.float32))
    state = program.init(seed=0)

    def train(steps: int) -> float:
        nonlocal state
        for _ in range(steps):
            state, metrics = program.train_step(state, batch)
        return float(metrics["loss"])

    return train
