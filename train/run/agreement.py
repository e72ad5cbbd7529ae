"""What the processes of a run must agree on: what they run, what was recorded, when to stop.

Each function does nothing in a single process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.host.signals import StopRequest
from train.step.sharding import replicated

DAY_MS = 24 * 3600 * 1000

T = TypeVar("T")


def check_same(what: str, value: str, cure: str) -> None:
    """Refuses to go on where the processes hold different values; waits until all are here.

    Args:
      what: What the value is, for the message and to tell one check from another.
      value: This process's.
      cure: What to do about a difference.

    Raises:
      ValueError: In every process, if one has another value.
    """
    if jax.process_count() == 1:
        return
    # Patient, as a collective is not: one of the processes may be tokenizing the data for hours.
    ocp.multihost.get_barrier_sync_fn()(key=what, timeout_ms=DAY_MS)
    digest = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint32)
    digests = np.asarray(multihost_utils.process_allgather(digest))
    others = np.flatnonzero((digests != digests[0]).any(axis=1))
    if others.size:
        raise ValueError(
            f"{what} of process {others[0]} is not that of process 0 (process "
            f"{jax.process_index()} has {value}): {cure}"
        )


def from_first(content: bytes) -> bytes:
    """The content that process 0 holds, for all."""
    if jax.process_count() == 1:
        return content
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    if not size:
        return b""
    buffer = np.zeros(size, np.uint8)
    if jax.process_index() == 0:
        buffer[:] = np.frombuffer(content, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(buffer), np.uint8).tobytes()


class SharedStopRequest(StopRequest):
    """A stop that every process makes after the same step, whichever of them was asked.

    Args:
      mesh: All devices of the run.
    """

    def __init__(self, mesh: Mesh) -> None:
        super().__init__()
        self._alone = jax.process_count() == 1
        self._answer: jax.Array | None = None
        self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._highest = jax.jit(jnp.max, out_shardings=replicated(mesh))

    def agree(self) -> None:
        """Sets `signum` by what any process was asked up to the step before; call at every step.

        The question goes to the devices behind the step and its answer is read after the next one,
        so nobody waits for it.
        """
        if self._alone:
            return
        if self._answer is not None:
            self.signum = int(self._answer) or None
        asked = np.full(jax.local_device_count(), self._asked or 0, np.int32)
        self._answer = self._highest(jax.make_array_from_process_local_data(self._sharding, asked))

    def until_asked(self, items: Iterable[T]) -> Iterator[T]:
        """The first of these, and more of them until somebody asks to stop."""
        for item in items:
            yield item
            self.agree()
            if self.signum:
                return

    def _request(self, signum: int, frame: FrameType | None) -> None:
        agreed = self.signum
        super()._request(signum, frame)
        if not self._alone:
            self.signum = agreed
