"""A run's records, made from what the loop knows: one method per kind of line."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import optax
from jax.sharding import Mesh

from train.config.comparison import Contestant, Entry
from train.config.plain import config_hash, to_dict
from train.config.run import RunConfig
from train.host import provenance
from train.host.disk import disk_explained
from train.records.lines import (
    CostRecord,
    EvalRecord,
    FinalRecord,
    ModelSummary,
    Record,
    RecordWriter,
    RunRecord,
    SpikeRecord,
    StepRecord,
    decode,
    encode,
)
from train.run.agreement import from_first
from train.run.folder import imported_weights
from train.run.run_summary import RunSummary
from train.run.spikes import SpikeWatch
from train.run.trackers import TrackerName, numbers, open_tracker
from train.run.training_clock import Spent, speed_of
from train.tasks.task import Task


class CompiledStep(Protocol):
    """What a final record tells of the program that ran."""

    @property
    def mesh(self) -> Mesh:
        """All devices that it ran on."""

    def peak_bytes(self) -> int:
        """Memory of a device that it needs."""

    def state_bytes_per_parameter(self) -> float:
        """Size of the optimizer's state."""


class Recorder:
    """Writes a run's lines, going on after those of the steps that a checkpoint holds.

    Among several processes the first one writes; the others know the same records.

    Args:
      path: The records file.
      config: The run.
      task: What it trains.
      after_step: The step that training goes on from; later lines are dropped, to be written again.
      contestant: What the records call the optimizer; by default its own name.
      track: Who else is told of every line.

    Raises:
      ValueError: If a tracker's package is not installed, or lines of steps before are missing.
      DiskError: If there is no room for a line, here or in any method; none is half written.
    """

    def __init__(
        self,
        path: Path,
        config: RunConfig,
        task: Task,
        after_step: int,
        *,
        contestant: Contestant | None = None,
        track: Sequence[TrackerName] = (),
    ) -> None:
        self._config, self._task, self._folder = config, task, path.parent
        self._contestant = contestant or Contestant(config.optimizer)
        first = jax.process_index() == 0
        run = self._run_record()
        self._trackers = [
            open_tracker(name, path.parent, run, after_step) for name in track if first
        ]
        with disk_explained(self._folder):
            self._writer = RecordWriter(path, resume_after_step=after_step) if first else None
        kept = b"".join(map(encode, self._writer.kept)) if self._writer else b""
        records = [decode(line) for line in from_first(kept).splitlines()]
        self._summary, self._watch = RunSummary(config.steps, records), SpikeWatch(records)
        self._check_complete(after_step)

    @property
    def empty(self) -> bool:
        """Whether nothing has been recorded yet."""
        return self._summary.empty

    def has_evaluated(self, step: int) -> bool:
        """Whether the validation loss after a step is recorded; of steps before it says nothing."""
        return self._summary.val_step == step

    def start(self) -> None:
        """The first line: everything that the run's numbers depend on."""
        self._write(self._run_record())

    def step(self, step: int, metrics: Any, seconds: float) -> None:
        """A training step, from the metrics that it left on the device."""
        host = jax.tree.map(_shortest, jax.device_get(metrics))
        del host["consecutive_skips"]
        host["skipped"] = int(host["skipped"])
        self._write(StepRecord(step=step, tokens=self._tokens(step), seconds=seconds, **host))

    def stands_out(self, loss: float, *, skipped: bool) -> bool:
        """Whether a step is one to be recorded by `spike`; to be asked of every step."""
        return self._watch.stands_out(loss, skipped=skipped)

    def spike(self, step: int, metrics: Any, seconds: float) -> None:
        """A step that stands out, from its metrics; before its line by `step`, if that is due."""
        names = ("loss", "grad_norm", "consecutive_skips")
        host = jax.device_get({name: metrics[name] for name in names})
        rows = self._config.batch_size
        record = SpikeRecord(
            step=step,
            tokens=self._tokens(step),
            loss=_shortest(host["loss"]),
            median=self._watch.usual.median,
            deviation=self._watch.usual.deviation,
            grad_norm=_shortest(host["grad_norm"]),
            skipped=bool(host["consecutive_skips"] > 0),
            first_row=(step - 1) * rows,
            last_row=step * rows - 1,
            seconds=seconds,
        )
        self._write(record)

    def evaluation(self, step: int, loss: float, seconds: float) -> None:
        """A validation loss, in nats a token."""
        record = EvalRecord(
            step=step,
            tokens=self._tokens(step),
            loss=loss,
            bits_per_byte=self._bits_per_byte(loss),
            seconds=seconds,
        )
        self._write(record)

    def final(self, step: int, program: CompiledStep, spent: Spent) -> FinalRecord:
        """The last line. A run that stopped early, or ends above its start, has diverged."""
        val_loss = self._summary.final_val_loss
        tokens = self._tokens(step)
        record = FinalRecord(
            step=step,
            tokens=tokens,
            train_loss=self._summary.train_loss,
            val_loss=val_loss,
            bits_per_byte=self._bits_per_byte(val_loss),
            **spent._asdict(),
            peak_bytes=program.peak_bytes(),
            state_bytes_per_parameter=program.state_bytes_per_parameter(),
            skipped=self._summary.skipped,
            diverged=not val_loss <= self._summary.first_val_loss,
            **speed_of(self._task, tokens, spent)._asdict(),
        )
        self._write(record)
        self.sync()
        return record

    def sync(self) -> None:
        """Waits until all lines are on the disk."""
        if self._writer:
            with disk_explained(self._folder):
                self._writer.sync()

    def close(self) -> None:
        """Closes the file, and what the trackers have open."""
        if self._writer:
            self._writer.close()
        for tracker in self._trackers:
            tracker.close()

    def _check_complete(self, after_step: int) -> None:
        last = after_step - after_step % self._config.log_every
        if after_step and (self.empty or self._summary.last_step < last):
            self.close()
            raise ValueError(
                f"{self._folder} lacks the records of the {after_step} steps that the checkpoint "
                "holds: put them back, or move the checkpoints away to begin again."
            )

    def _tokens(self, step: int) -> int:
        return step * self._task.tokens_per_step

    def _bits_per_byte(self, loss: float) -> float:
        return self._task.bits_per_byte(loss) if self._task.bits_per_byte else math.nan

    def _run_record(self) -> RunRecord:
        run = run_record(self._config, self._task, self._contestant)
        return dataclasses.replace(run, weights=imported_weights(self._folder))

    def _write(self, record: Record) -> None:
        self._summary.see(record)
        self._watch.see(record)
        if self._writer:
            with disk_explained(self._folder):
                self._writer.write(record)
        if not isinstance(record, RunRecord | CostRecord | SpikeRecord):  # Those are no curves.
            for tracker in self._trackers:
                tracker.log(record.step, numbers(record))


def _shortest(number: Any) -> float:
    """By way of the shortest text that means the same float32: half the digits."""
    return float(str(number))


def run_record(config: RunConfig, task: Task, contestant: Contestant) -> RunRecord:
    """What a run is and what its numbers depend on."""
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    return RunRecord(
        name=Entry(contestant, config).name,
        optimizer=contestant.name,
        title=contestant.title,
        after=contestant.after,
        seed=config.seed,
        config_hash=config_hash(config),
        commit=provenance.commit(),
        device=provenance.device(),
        device_count=provenance.device_count(),
        versions=provenance.versions(),
        model=ModelSummary(
            name=task.name,
            parameters=optax.tree.size(shapes),
            flops_per_token=math.nan if task.flops_per_token is None else task.flops_per_token,
        ),
        data=task.data(),
        batch_size=config.batch_size,
        context=config.context,
        steps=config.steps,
        learning_rate=config.optimizer.learning_rate,
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        config=to_dict(config),
    )
