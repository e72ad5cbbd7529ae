"""Saves of one state, and plain files of as many bytes to compare them with."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from train.config.run import MeshConfig, RunConfig
from train.run.checkpoints import Checkpointer
from train.run.training_clock import NOTHING_SPENT
from train.step.optimizer import build_optimizer
from train.step.sharding import make_mesh
from train.step.state import TrainState, abstract_state
from train.tasks import task_of


class Saver:
    """Saves one state over and over, each time into another checkpoint, as a run does."""

    def __init__(self, folder: Path, state: TrainState) -> None:
        self._checkpointer = Checkpointer(
            folder / "checkpoints", config_hash="", fingerprint="", seed=0, keep=1
        )
        self._next_step = jax.jit(lambda state: jax.tree.map(lambda x: -x, state), donate_argnums=0)
        self._state, self._saved = self._next_step(state), 0

    def save(self) -> tuple[float, float]:
        """Seconds until the next step is launched and until all is on the disk."""
        jax.block_until_ready(self._state)
        self._saved += 1
        os.sync()
        start = time.perf_counter()
        self._checkpointer.save(self._saved, self._state, NOTHING_SPENT)
        self._state = self._next_step(self._state)
        stall = time.perf_counter() - start
        self._checkpointer.wait()
        return stall, time.perf_counter() - start

    def close(self) -> None:
        """Ends the checkpointer's threads."""
        self._checkpointer.close()


def write(folder: Path, numbers: Sequence[np.ndarray]) -> float:
    """Seconds to write and fsync one file, which is removed again."""
    path = folder / "raw"
    os.sync()
    start = time.perf_counter()
    with path.open("wb") as file:
        for leaf in numbers:
            file.write(leaf.data)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    path.unlink()
    return seconds


def random_state(config: RunConfig) -> tuple[list[np.ndarray], TrainState]:
    """Random numbers and a state made of them, on one device."""
    optimizer = build_optimizer(config.optimizer, config.schedule, config.steps)
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    target = abstract_state(task_of(config), optimizer.transformation, mesh)
    leaves, structure = jax.tree.flatten(target)
    random = np.random.default_rng(0)
    numbers = [random.standard_normal(leaf.shape, np.float32).astype(leaf.dtype) for leaf in leaves]
    placed = [jax.device_put(x, leaf.sharding) for x, leaf in zip(numbers, leaves, strict=True)]
    return numbers, jax.tree.unflatten(structure, placed)
