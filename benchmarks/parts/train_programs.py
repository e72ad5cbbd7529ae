"""One train step of ours and one of PyTorch's, for `benchmarks.parts.stepping`.

Both start from the same parameters, take the same batch from NumPy in every step, and update with
AdamW, whose settings are `train`'s defaults: decay of matrices only, gradients clipped by their
global norm. Each says the losses of its first steps. Other benchmarks take ours alone, as a run
compiles it, on random tokens.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

import models
from benchmarks.parts.stepping import Run
from train.config.run import Experiment, RunConfig, ScheduleConfig
from train.data import Batch
from train.host import provenance
from train.optimizers import AdamW
from train.step.program import Program, build_program
from train.tasks import task_of

FIRST = 8
"""Steps whose losses are said."""


class Said(NamedTuple):
    """By a program that is ready."""

    device: str
    """What it runs on."""
    losses: tuple[float, ...]
    """Of its first steps."""


def run_config(model: models.TransformerConfig, batch_size: int) -> RunConfig:
    """What both train: AdamW at a constant rate."""
    schedule = ScheduleConfig(warmup_steps=0, decay="constant")
    return RunConfig(
        model=model,
        batch_size=batch_size,
        context=model.context,
        schedule=schedule,
        optimizer=AdamW(),
    )


@dataclass(frozen=True)
class Ours:
    """The train step as a run makes it, with its norms and its guard."""

    config: RunConfig

    def __call__(self) -> tuple[Run, Said]:
        """Compiles it."""
        program, batch = build_program(self.config, task_of(self.config)), _batch(self.config)
        state = program.init(self.config.seed)

        def step() -> jax.Array:
            nonlocal state
            state, metrics = program.train_step(state, batch)
            return metrics["loss"]

        said = Said(provenance.device(), tuple(float(step()) for _ in range(FIRST)))
        return _repeated(step, lambda loss: loss.block_until_ready()), said


@dataclass(frozen=True)
class Theirs:
    """PyTorch's."""

    config: RunConfig
    mode: str | None
    """Of `torch.compile`; None is eager."""
    device: str
    """As PyTorch names it: 'cpu' or 'cuda'."""

    def __call__(self) -> tuple[Run, Said]:
        """Compiles it."""
        import torch

        from benchmarks.parts import torch_model

        if self.device == "cpu":
            torch.set_num_threads(1)
        config, batch = self.config, _batch(self.config)
        model = torch_model.Transformer(config.model, config.context, _parameters(config))
        model.to(self.device)
        optimizer = torch_model.adamw(model, config.optimizer)
        loss_of = model if self.mode is None else torch.compile(model, mode=self.mode)
        inputs_BT, targets_BT = batch.inputs_BT.astype(np.int64), batch.targets_BT.astype(np.int64)
        half = config.model.dtype != "float32"

        def step() -> Any:
            optimizer.zero_grad(set_to_none=True)
            tokens = torch.from_numpy(inputs_BT).to(self.device)
            targets = torch.from_numpy(targets_BT).to(self.device)
            with torch.autocast(self.device, model.dtype, enabled=half):
                loss = loss_of(tokens, targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip)
            optimizer.step()
            return loss.detach()

        device = torch.cuda.get_device_name() if self.device == "cuda" else provenance.device()
        said = Said(device, tuple(float(step()) for _ in range(FIRST)))
        return _repeated(step, lambda loss: loss.item()), said


def _parameters(config: RunConfig) -> models.Params:
    """Those that a run begins with, drawn on the CPU and without a device of JAX's."""
    jax.config.update("jax_platforms", "cpu")
    draw = jax.jit(models.init, static_argnums=0)
    return jax.device_get(draw(config.model, jax.random.key(config.seed)))


def _batch(config: RunConfig) -> Batch:
    """Random tokens, always the same, so that what is learned is the batch itself."""
    shape = config.batch_size, config.context + 1
    tokens = np.random.default_rng(0).integers(0, config.model.vocab_size, shape, dtype=np.int32)
    return Batch(tokens[:, :-1], tokens[:, 1:], np.ones(tokens[:, 1:].shape, np.float32))


def _repeated(step: Callable[[], Any], wait: Callable[[Any], object]) -> Run:
    def run(steps: int) -> None:
        for _ in range(steps):
            last = step()
        wait(last)

    return run


def random_batch(config: Experiment) -> Batch:
    """One batch of an experiment's shape; every position counts."""
    shape = config.batch_size, config.context
    tokens = np.random.default_rng(0).integers(0, config.model.vocab_size, shape, dtype=np.int32)
    return Batch(tokens, tokens, np.ones(shape, np.float32))


def seconds(program: Program, batch: Batch, *, warm_up: int = 5, steps: int = 20) -> float:
    """Of one step, on average; the host waits at the end only."""
    state = program.init(seed=0)
    for step in range(warm_up + steps):
        if step == warm_up:
            jax.block_until_ready(state)
            start = time.perf_counter()
        state, _ = program.train_step(state, batch)
    jax.block_until_ready(state)
    return (time.perf_counter() - start) / steps
