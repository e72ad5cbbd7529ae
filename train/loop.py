"""The loop of one run: step, log, evaluate, checkpoint; from the start or from where it was.

The host reads the metrics of a step while the device computes the next one, so it never waits for
the device and the device never for it. Everything that decides the result is a function of the
configuration and the step, so an interrupted run ends in the same bits as an undisturbed one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from train.checkpointing import Checkpointer
from train.config import Experiment, RunConfig, config_hash
from train.data import Dataset, open_dataset
from train.interrupts import Interrupted, StopRequest
from train.program import Program, build_program
from train.records import EvalRecord, FinalRecord, RecordWriter, StepRecord
from train.run_folder import claim, finished, run_record
from train.sharding import check_mesh
from train.state import TrainState
from train.stopwatch import Stopwatch


class Progress(NamedTuple):
    """What a display shows of a run; called after every step."""

    step: int
    steps: int
    loss: float
    val_loss: float
    """Of the last evaluation; NaN before the first."""
    tokens_per_second: float


class StuckError(RuntimeError):
    """Too many non-finite steps in a row: the run cannot go on."""


def train(
    config: RunConfig,
    folder: Path,
    *,
    program: Program | None = None,
    dataset: Dataset | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> FinalRecord:
    """Trains one configuration to its last step, going on from the folder's last checkpoint.

    Args:
      config: The run.
      folder: Where configuration, records and checkpoints go. A finished run in it is not run
        again: its final record is returned.
      program: A program of the same configuration (any seed), to save its compilation.
      dataset: The configuration's open data set, likewise.
      on_progress: Called after every step.

    Raises:
      ValueError: If the configuration does not fit the data, the devices or what the folder holds;
        raised before anything is written.
      Interrupted: If a signal asked to stop; the state is saved.
      StuckError: After `config.max_consecutive_skips` non-finite steps in a row.
    """
    done = finished(folder, config)
    if done is not None:
        return done
    check_mesh(config)
    dataset = dataset or open_dataset(config.data)
    check_vocabulary(config, dataset)
    program = program or build_program(config)
    claim(folder, config)
    run = _Run(config, folder, program, dataset, on_progress)
    try:
        with StopRequest() as stop:
            final = run.to_the_end(stop)
    except StuckError:
        run.finish(val_loss=math.nan)
        raise
    finally:
        run.close()
    if stop.signum:  # It came with the last step: whoever called must not go on to another run.
        raise Interrupted(stop.signum, config.steps)
    return final


def check_vocabulary(config: Experiment, dataset: Dataset) -> None:
    """Refuses a model that lacks an embedding for one of the data's tokens.

    Raises:
      ValueError: If the model's vocabulary is smaller than the tokenizer's.
    """
    if config.model.vocab_size < dataset.vocab_size:
        raise ValueError(
            f"model.vocab_size={config.model.vocab_size} is smaller than the {dataset.vocab_size} "
            f"tokens of {dataset.tokenizer_name}: set --model.vocab-size {dataset.vocab_size}."
        )


class _Run:
    """One run under way."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        program: Program,
        dataset: Dataset,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._config, self._program, self._dataset = config, program, dataset
        self._on_progress = on_progress
        self._checkpointer = Checkpointer(
            folder / "checkpoints",
            config_hash=config_hash(config),
            fingerprint=dataset.fingerprint,
            seed=config.seed,
        )
        restored = self._checkpointer.restore(program.target)
        self._state: TrainState = restored.state if restored else program.init(config.seed)
        self._clock = Stopwatch(restored.seconds if restored else 0.0)
        self._start = int(self._state.step)
        self._writer = RecordWriter(folder / "records.jsonl", resume_after_step=self._start)
        self._records: list[Any] = list(self._writer.kept)
        self._skipped = 0
        self._val_loss = math.nan
        if not self._records:
            self._write(run_record(config, dataset))
            self._evaluate(0)

    def to_the_end(self, stop: StopRequest) -> FinalRecord:
        config = self._config
        batches = self._dataset.train_batches(
            config.batch_size, config.context, seed=config.seed, start_step=self._start
        )
        pending: tuple[int, Any] | None = None
        with self._clock:
            for step in range(self._start + 1, config.steps + 1):
                self._state, metrics = self._program.train_step(self._state, next(batches))
                if pending:
                    self._log(*pending)
                pending = step, metrics
                last = step == config.steps
                if last or stop.signum or step % config.eval_every == 0 \
                        or step % config.checkpoint_every == 0:  # fmt: skip
                    self._log(*pending)
                    pending = None
                    with self._clock.paused():
                        self._between_steps(step, last, stop)
        return self.finish(self._val_loss)

    def close(self) -> None:
        self._checkpointer.close()
        self._writer.close()

    def _between_steps(self, step: int, last: bool, stop: StopRequest) -> None:
        if last or step % self._config.eval_every == 0:
            self._evaluate(step)
        if last or stop.signum or step % self._config.checkpoint_every == 0:
            self._writer.sync()
            self._checkpointer.save(step, self._state, self._clock.seconds)
        if stop.signum and not last:
            raise Interrupted(stop.signum, step)

    def _log(self, step: int, metrics: Any) -> None:
        """Reads a step's metrics from the device and writes them if it is a step to log."""
        config = self._config
        every_step = ("loss", "skipped", "consecutive_skips")
        loss, skipped, in_a_row = jax.device_get([metrics[name] for name in every_step])
        self._skipped = int(skipped)
        if in_a_row >= config.max_consecutive_skips:
            raise StuckError(
                f"step {step}: the gradients of {int(in_a_row)} steps in a row were not finite, and "
                f"no parameter has changed since step {step - int(in_a_row)}. Lower "
                f"--optimizer.learning-rate ({config.optimizer.learning_rate}) or look at the data."
            )
        if step % config.log_every == 0 or step == config.steps:
            host = jax.tree.map(float, jax.device_get(metrics))
            del host["consecutive_skips"]
            host |= {"skipped": self._skipped}
            tokens = step * config.tokens_per_step
            self._write(StepRecord(step=step, tokens=tokens, seconds=self._clock.seconds, **host))
        rate = (step - self._start) * config.tokens_per_step / max(self._clock.lap, 1e-9)
        self._on_progress(Progress(step, config.steps, float(loss), self._val_loss, rate))

    def _evaluate(self, step: int) -> None:
        config = self._config
        batches = self._dataset.validation_batches(
            config.batch_size, config.context, max_batches=config.eval_batches
        )
        self._val_loss = self._program.evaluate(self._state.params, batches)
        self._write(
            EvalRecord(
                step=step,
                tokens=step * config.tokens_per_step,
                loss=self._val_loss,
                bits_per_byte=self._bits_per_byte(self._val_loss),
                seconds=self._clock.seconds,
            )
        )

    def finish(self, val_loss: float) -> FinalRecord:
        """Writes the final record; a validation loss that is not finite says that it diverged."""
        config = self._config
        late = [
            record.loss
            for record in self._records
            if isinstance(record, StepRecord) and record.step > 0.95 * config.steps
        ]
        at_start = next(record.loss for record in self._records if isinstance(record, EvalRecord))
        record = FinalRecord(
            step=config.steps,
            tokens=config.steps * config.tokens_per_step,
            train_loss=sum(late) / len(late) if late else math.nan,
            val_loss=val_loss,
            bits_per_byte=self._bits_per_byte(val_loss),
            seconds=self._clock.seconds,
            device_seconds=self._clock.seconds * self._program.mesh.size,
            peak_bytes=self._program.peak_bytes(),
            state_bytes_per_parameter=self._program.state_bytes_per_parameter(),
            skipped=self._skipped,
            diverged=not val_loss <= at_start,
        )
        self._write(record)
        self._writer.sync()
        return record

    def _bits_per_byte(self, nats_per_token: float) -> float:
        return nats_per_token / math.log(2) / self._dataset.bytes_per_token

    def _write(self, record: Any) -> None:
        self._records.append(record)
        self._writer.write(record)
